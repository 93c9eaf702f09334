"""Compiled loops of this room: best-fit packing, a keyed shuffle, taking turns by weight, laying segments out in rows.

All work on plain arrays, so that a plan of ten billion tokens costs seconds and a batch far less than a millisecond.
Compiled at first use and cached beside this file where that can be written, else in the user's cache folder.
"""

import heapq
from collections.abc import Callable
from typing import Any  # Any: what numba makes of a function has no useful type

import numba
import numpy as np

ROUNDS = 4
"""Of the Feistel network: four make it a permutation that looks random (Luby and Rackoff 1988)."""
MIN_HALF_BITS = 4
"""Halves of fewer bits know too few permutations; a small range is walked through instead."""


def compiled(function: Callable[..., Any]) -> Any:
    """The function compiled by numba, cached where a folder for it can be written."""
    try:
        return numba.njit(cache=True, nogil=True)(function)
    except RuntimeError:  # numba finds no folder to cache in (read-only installation without a home)
        return numba.njit(nogil=True)(function)


@compiled
def cut_documents(lengths, row_tokens, document, start, length):  # type: ignore[no-untyped-def]  # compiled
    """Cuts documents into pieces of at most `row_tokens`, in their order, into the three arrays."""
    at = 0
    for i in range(len(lengths)):
        for first in range(0, lengths[i], row_tokens):
            document[at] = i
            start[at] = first
            length[at] = min(row_tokens, lengths[i] - first)
            at += 1


@compiled
def longest_first(length, row_tokens):  # type: ignore[no-untyped-def]  # compiled
    """The order of pieces by falling length; pieces of one length keep theirs. A counting sort."""
    place = np.zeros(row_tokens + 2, np.int64)
    for n in length:
        place[row_tokens - n + 1] += 1
    place = np.cumsum(place)
    order = np.empty(len(length), np.int64)
    for i in range(len(length)):
        bucket = row_tokens - length[i]
        order[place[bucket]] = i
        place[bucket] += 1
    return order


@compiled
def best_fit_rows(length, order, row_tokens):  # type: ignore[no-untyped-def]  # compiled
    """(row of each piece, number of rows), each piece put where it leaves the least room.

    rows with r places left form a stack: top[r], and below[row]. Bit r of `occupied` is set while that stack is not
    empty, so that the tightest fit is found by looking at 64 sizes of room at a time.
    """
    top = np.full(row_tokens + 1, -1, np.int64)
    below = np.empty(len(length), np.int64)
    occupied = np.zeros(row_tokens // 64 + 1, np.uint64)
    row_of = np.empty(len(length), np.int64)
    num_rows = 0
    for piece in order:
        n = length[piece]
        word = n >> 6
        bits = occupied[word] >> np.uint64(n & 63) << np.uint64(n & 63)
        while bits == 0 and word + 1 < len(occupied):
            word += 1
            bits = occupied[word]
        if bits != 0:
            room = int(word << 6)
            while bits & np.uint64(1) == 0:
                bits >>= np.uint64(1)
                room += 1
            row = top[room]
            top[room] = below[row]
            if top[room] < 0:
                occupied[room >> 6] ^= np.uint64(1) << np.uint64(room & 63)
        else:
            room = row_tokens
            row = num_rows
            num_rows += 1
        row_of[piece] = row
        left = room - n
        if left:
            below[row] = top[left]
            top[left] = row
            occupied[left >> 6] |= np.uint64(1) << np.uint64(left & 63)
    return row_of, num_rows


@compiled
def group_by_row(row_of, order, row_offset):  # type: ignore[no-untyped-def]  # compiled
    """The pieces row by row, in each row in the order in which they were placed; fills `row_offset`."""
    for row in row_of:
        row_offset[row + 1] += 1
    for row in range(1, len(row_offset)):
        row_offset[row] += row_offset[row - 1]
    place = row_offset[:-1].copy()
    grouped = np.empty(len(order), np.int64)
    for piece in order:
        row = row_of[piece]
        grouped[place[row]] = piece
        place[row] += 1
    return grouped


@compiled
def pour(length, gap):  # type: ignore[no-untyped-def]  # compiled
    """Pieces cut so that they fill the gaps, in the order of both: (piece, its first place, length, gap) of each part.

    The gaps must hold all pieces.
    """
    size = len(length) + len(gap)
    piece, first, taken, into = np.empty(size, np.int64), np.empty(size, np.int64), np.empty(size, np.int64), np.empty(size, np.int64)
    count, g, room = 0, 0, gap[0]
    for i in range(len(length)):
        start = 0
        while start < length[i]:
            while room == 0:
                g += 1
                room = gap[g]
            n = min(room, length[i] - start)
            piece[count], first[count], taken[count], into[count] = i, start, n, g
            count += 1
            start += n
            room -= n
    return piece[:count], first[:count], taken[:count], into[:count]


@compiled
def mix(value):  # type: ignore[no-untyped-def]  # compiled
    """splitmix64's finalizer (Steele et al. 2014): 64 bits to 64 bits, one to one."""
    value = value + np.uint64(0x9E3779B97F4A7C15)
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


@compiled
def shuffled(place, size, stream, seed):  # type: ignore[no-untyped-def]  # compiled
    """For each place of an endless stream of epochs over `size` items, the item there.

    Each epoch has every item once, in an order of its own, keyed by (seed, stream, epoch): a Feistel network over the
    next even number of bits, walked until it falls into 0 .. size - 1 (Black and Rogaway 2002). No table is kept.
    place, size and stream are int64 [N]; seed is uint64.
    """
    found = np.empty(len(place), np.int64)
    for i in range(len(place)):
        epoch, value = place[i] // size[i], np.uint64(place[i] % size[i])
        key = mix(mix(mix(seed) ^ np.uint64(stream[i])) ^ np.uint64(epoch))
        half = MIN_HALF_BITS
        while (1 << 2 * half) < size[i]:
            half += 1
        shift, mask = np.uint64(half), np.uint64((1 << half) - 1)
        while True:
            left, right = value >> shift, value & mask
            for round_ in range(ROUNDS):
                left, right = right, left ^ (mix(key ^ (right + (np.uint64(round_ + 1) << np.uint64(48)))) & mask)
            value = (left << shift) | right
            if value < np.uint64(size[i]):
                break
        found[i] = np.int64(value)
    return found


@compiled
def take_turns(weight, num_places, source, ordinal):  # type: ignore[no-untyped-def]  # compiled
    """Whose turn it is at each place, and which turn of that source it is (from 0), into the two arrays.

    A source of weight w in a total of W may take its turn c once it is behind (n w > c W after place n) and must have
    taken it by place ceil((c + 1) W / w); of those behind, the one whose turn is due first comes next. Such a schedule
    exists and this finds it (Steiner and Yeomans 1993), so that after n places each source had n w / W turns, rounded
    down or up. To serve the largest deficit, whatever is due, misses that bound with ten sources already (by 1.25 rows).
    """
    total = weight.sum()
    count = len(weight)
    waiting = np.full(num_places + 1, -1, np.int64)  # the first of the sources that may go from this place on ...
    following = np.full(count, -1, np.int64)  # ... and the next of them
    taken = np.zeros(count, np.int64)
    ready = [np.int64(0)]
    ready.clear()
    for i in range(count - 1, -1, -1):
        if weight[i] > 0:
            following[i] = waiting[0]
            waiting[0] = i
    for place in range(num_places):
        i = waiting[place]
        while i >= 0:
            due = ((taken[i] + 1) * total + weight[i] - 1) // weight[i]
            heapq.heappush(ready, due * count + i)
            i = following[i]
        i = int(heapq.heappop(ready) % count)
        source[place] = i
        ordinal[place] = taken[i]
        taken[i] += 1
        free = taken[i] * total // weight[i]
        if free <= place:
            due = ((taken[i] + 1) * total + weight[i] - 1) // weight[i]
            heapq.heappush(ready, due * count + i)
        elif free < num_places:
            following[i] = waiting[free]
            waiting[free] = i


@compiled
def lay_out(ids, mask, given, length, at, number, token, target, weight, document, position):  # type: ignore[no-untyped-def]  # compiled
    """Writes segments into the flat rows of a batch. Of segment s, `given[s]` ids were read: its `length[s]`, and one more where
    the document goes on; it stands from `at[s]` on and is document `number[s]` of its row."""
    first = 0
    for s in range(len(given)):
        for k in range(length[s]):
            place = at[s] + k
            token[place] = ids[first + k]
            document[place] = number[s]
            position[place] = k
            if k + 1 < given[s]:
                target[place] = ids[first + k + 1]
                weight[place] = mask[first + k + 1]
        first += given[s]
