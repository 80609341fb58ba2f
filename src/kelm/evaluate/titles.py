"""What people call the figures."""

TITLES = {
    "perplexity": "perplexity",
    "byte_perplexity": "perplexity per byte",
    "bits_per_byte": "bits per byte",
    "accuracy": "accuracy",
    "macro_f1": "macro F1",
    "micro_f1": "micro F1",
    "exact_match": "exact match",
    "bleu": "BLEU (0-100)",
    "rouge1": "ROUGE-1",
    "rouge2": "ROUGE-2",
    "rougeL": "ROUGE-L",
}
