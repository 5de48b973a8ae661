"""The worker process: one job in, one result out; the only room that imports the training stack.

`python -m honed.worker JOB.json` does a job of `domain.job`. Nothing here is imported by the
daemon, and importing this package loads nothing: the modules that need torch are imported when
their job runs.

    template, rows         conversations to tokens and labels
    base_model             the base model and its tokenizer, loaded
    pretrain               a tiny base model from nothing, for demo and tests
    sft, export            LoRA training; the adapter folder
    scores, fingerprint    what base and adapter say to given tokens
    architectures          which models can be served, and how their tensors are called in GGUF
    gguf_base, gguf_lora   Hugging Face's files to llama.cpp's
"""
