"""The engines that answer, each an `udrl.decoding.engine.Engine`.

pytorch    torch: GPT-2 by its own forward pass, any other causal language model by its own
onnx       ONNX Runtime on CPUs, float32 or int8, from an export (`udrl export`)
exports    exports in a student's folder: what they were made of, how they were verified
choice     which engine a student is loaded with
"""
