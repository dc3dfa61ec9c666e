"""A student behind the API that programs already speak: OpenAI's, with commands as further fields.

options    what a server is told when it starts
server     starts it: students, socket, signals
app        which address does what, and what holds for all of them: keys, sizes, errors, logs
fields     a request's JSON: what is taken, what is refused, and why
plan       a request becomes prompts for a student
batching   the thread that owns a student's decoder: requests join those that are being written
writing    what is written becomes answers: as it comes, or whole, scored and picked
shapes     answers in OpenAI's shapes, with udrl's own block
playground the page at /, for people
served     one student and what belongs to it      metrics   Prometheus
mcp        the same by the Model Context Protocol, as tools of assistants
"""
