r"""Networks and layers of :mod:`tvm_schedules.bench.networks` against the engines of other projects, in one run.

    tern-bench --suite --json suite.json --plot suite.svg \
        --peer-python openvino=/envs/openvino/bin/python --peer-python executorch=/envs/executorch/bin/python \
        --peer-python deepsparse=/envs/deepsparse/bin/python

onnxruntime is measured as installed here. The others want other versions of the same packages, so each has an
environment of its own and is left out, with a line, where it is not given:

    python3.11 -m venv /envs/openvino   && /envs/openvino/bin/pip install openvino nncf onnx
    python3.11 -m venv /envs/executorch && /envs/executorch/bin/pip install executorch torch torchao onnx
    python3.11 -m venv /envs/deepsparse && /envs/deepsparse/bin/pip install deepsparse==1.8.0 'numpy<2' 'onnx==1.14'

(DeepSparse needs Python 3.11 or older.) Libraries and the engines' own files stay in ``--work``; measurements are
written to ``--json`` one by one, and a run that was interrupted goes on there. A case is one network with one number of
threads: all engines are loaded, pinned to the same CPUs and take turns for some rounds; a ratio is the median over
rounds of the peer's median by ours. ``--write-baseline`` keeps the ratios, ``--compare`` shows what moved since.
"""
