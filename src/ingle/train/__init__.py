"""Making small models: from text to a GGUF file. Only this part needs PyTorch (`pip install 'ingle[train]'`).

`shape` and `config` say what is to be made and need no PyTorch; `data` turns texts into token shards; `decoder` is
the model; `trainer` runs; `compress` makes it smaller; `export` writes what other programs read.
"""
