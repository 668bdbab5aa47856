"""Data for training: from files, folders and Hugging Face data sets to documents, and from documents to token ids.

    sources -> Document -> Vocabulary.encode -> token ids and what of them is learnt

`sources` finds and reads files (`files`, `texts`, `json_records`, `hub`), `records` says what a JSON or Parquet record
means, `conversation` writes chats as the model will read them, `vocabulary` turns documents into token ids, `summary`
tells what is in a set. `shards` puts the tokens on disk, once; `packing` decides which stand in which row; `loader` is
the stream of batches. Nothing here needs PyTorch, and no file is ever in memory as a whole.
"""
