"""The Hugging Face hub: what its card says about the seeds, and the upload of an export."""
