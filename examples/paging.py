"""A contiguous cache as shuffled pages, the way servers keep it, for the adapters beside this."""

import torch
from torch import Tensor
from torch.nn.functional import pad

SPARE = 3


def paged(
    key_cache: Tensor, value_cache: Tensor, page_size: int, aligned: int = 1
) -> tuple[Tensor, Tensor, Tensor]:
    """Pages of keys, of values, and the page table.

    Args:
        key_cache, value_cache: ``[B, Hkv, S, D]`` and ``[B, Hkv, S, Dv]``.
        page_size: slots of a page; also of the last one of a sequence, where they end in NaN.
        aligned: the table has columns for a multiple of so many slots, 0 where there is no page.

    Returns:
        ``[pages, page_size, Hkv, D]`` and ``[pages, page_size, Hkv, Dv]``, views with as much NaN
        after each page as in it, and some pages of NaN; and int32 ``[B, columns]``: where the
        pages of each sequence lie.
    """
    batch, _, slots, _ = key_cache.shape
    each = -(-slots // page_size)
    order = torch.randperm(batch * each + SPARE, generator=torch.Generator().manual_seed(slots))
    table = order[: batch * each].view(batch, each).to(key_cache.device)

    def pages(cache: Tensor) -> Tensor:
        _, heads, _, dim = cache.shape
        whole = pad(cache, (0, 0, 0, each * page_size - slots), value=float("nan"))
        shape = (len(order), 2, page_size, heads, dim)
        view = cache.new_full(shape, float("nan"))[:, 0]
        view[table] = whole.unflatten(2, (each, page_size)).permute(0, 2, 3, 1, 4)
        return view

    columns = -(-slots // aligned) * aligned // page_size
    return pages(key_cache), pages(value_cache), pad(table.int(), (0, max(columns - each, 0)))
