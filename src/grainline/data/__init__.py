"""From text to token sequences: readers, the built-in corpus, tokenizers, packing, the dataset."""

from typing import TYPE_CHECKING

from grainline._lazy import lazy_exports

if TYPE_CHECKING:
    from grainline.data.dataset import TokenDataset
    from grainline.data.packed import Packed, validation_documents
    from grainline.data.readers import TextDocument, read_text
    from grainline.data.tokenizer import Tokenizer

__all__ = ["Packed", "TextDocument", "TokenDataset", "Tokenizer", "read_text", "validation_documents"]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "Packed": "packed",
        "TextDocument": "readers",
        "TokenDataset": "dataset",
        "Tokenizer": "tokenizer",
        "read_text": "readers",
        "validation_documents": "packed",
    },
)
