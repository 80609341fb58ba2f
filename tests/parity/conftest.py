import transformers

transformers.logging.disable_progress_bar()
transformers.logging.set_verbosity_error()
