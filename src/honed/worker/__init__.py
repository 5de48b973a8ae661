"""The worker process: one job in, one result out; the only room that imports the training stack.

`python -m honed.worker JOB.json` does a job of `domain.job`. Nothing here is imported by the
daemon, and importing this package loads nothing: the modules that need torch are imported when
their job runs.

    reporting, files       progress out, a result file, an exit status; files whole or absent
    train                  a TrainJob from beginning to end
    examples               the lines of a data file: conversations, pairs, labelled answers
    method, material       by which method and settings they are learned, and the rows that come of them
    rows, template         conversations to tokens and labels; preferences: answers that are compared
    base_model, adapted    the base model and its tokenizer, loaded; adapters on it in turn
    fine_tune              the part of a run that all methods share; checkpoints, stopping, smaller
    sft, dpo, kto, lora    TRL's trainer of each method, and the adapter in it
    export, manifest       the adapter folder and its lineage
    scores, fingerprint    what base and adapter say to given tokens; probe: how far they are apart
    architectures          which models can be served: a row for each family of GGUF
    limits, rope           what of a config llama.cpp computes alike, and what it does not
    gguf_base, gguf_lora   Hugging Face's files to llama.cpp's
    gguf_tokenizer         the same for the vocabulary: byte-level (pre_tokenizers) or sentencepiece
    lora_targets           where a LoRA may sit, asked before training
    pretrain               a tiny base model from nothing, for demo and tests
"""
