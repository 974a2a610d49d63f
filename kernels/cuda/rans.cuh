// The lanes coder under tables (entropy/FORMAT.md, sections 2 and 4): a warp codes a group.
//
// Thread t of the warp has the state of lane t and, of 64 lanes, that of lane t + 32. Lanes take words in
// ascending order, so a ballot of those that need one tells each which is its own. All else that has an order,
// the payloads of escapes and the tail, every thread of the warp computes alike.
//
// All 32 threads must call together. Nothing read from a stream is trusted; tables, sizes and layouts are.
#pragma once
#include "platform.cuh"

namespace rans {

typedef long long i64;
typedef unsigned long long u64;

// Of entropy/_symbols.py.
enum Status { OK, BAD_INDEX, TRUNCATED, BAD_NIBBLES, BAD_ESCAPE, BAD_CODE, BAD_STATE };
constexpr unsigned LOW = 1u << 16, ALL = 0xffffffffu;
constexpr int MAX_NIBBLES = 9, MAX_LANES = 64, WARP = 32;
// What is kept of a group between passes, as in entropy/_lanes_loops.py.
enum Progress { POSITION, END, ROUNDS, TAIL, MARK, PROGRESS };

Q_DEVICE unsigned own_lane() { return threadIdx.x % WARP; }

// A stream's layout, seen from one of its groups.
struct Layout {
    int lanes, groups, group;

    Q_DEVICE int log2_lanes() const { return __ffs(lanes) - 1; }
    // How many of the stream's first `count` symbols are the group's.
    Q_DEVICE i64 own(i64 count) const {
        const i64 blocks = count >> log2_lanes();
        const i64 cycles = blocks / groups, rest = count - ((cycles * groups + group) << log2_lanes());
        return (cycles << log2_lanes()) + (rest < 0 ? 0 : rest < lanes ? rest : lanes);
    }
    // The number in the stream of the group's symbol i.
    Q_DEVICE i64 number(i64 i) const {
        return (((i >> log2_lanes()) * groups + group) << log2_lanes()) + (i & (lanes - 1));
    }
};

// ---- tables ----

// The decoder's lookup (`lookup.py`), rows[r]: the row's cells begin at cells[.x], its buckets at the 16-bit number .y
// of `cells`, .z is its offset, .w is regular cells << 8 | shift. A cell is start | freq << 16, the escape the
// last; a bucket is the number in the row of the cell that holds the first of 2^shift slots. Rows that begin before
// cell `near_size` are read from `near`, a copy in shared memory.
struct Table {
    const uint4* rows;
    const unsigned* cells;
    int row_count, precision;
    const unsigned* near = nullptr;
    unsigned near_size = 0;
};

struct Cell {
    unsigned number, distance, freq;   // in its row; slot - start
};

Q_DEVICE Cell find(const Table& table, unsigned first, unsigned buckets, unsigned shift, unsigned slot) {
    const unsigned* const all = first < table.near_size ? table.near : table.cells;
    unsigned number = reinterpret_cast<const unsigned short*>(all)[buckets + (slot >> shift)];
    const unsigned* const cells = all + first;
    // Both are read at once: it's seldom another. Behind a row's cells there are its buckets.
    const unsigned record = cells[number], next = cells[number + 1];
    unsigned distance = slot - (record & 0xffff), freq = record >> 16;
    if (distance >= freq) {
        distance -= freq, freq = next >> 16, ++number;
        // The row's frequencies sum to 2^precision, which the slot is below.
        while (distance >= freq) distance -= freq, freq = cells[++number] >> 16;
    }
    return {number, distance, freq};
}

// ---- words ----

// A group's words from `position` on, 64 and 64 and 64 of them in registers: thread t has words 2t and 2t + 1 of each.
// The array begins at a multiple of 4 bytes and goes on for 256 words behind any `end`.
struct Words {
    unsigned short* data;
    unsigned position, end;
    unsigned current, next, ahead;

    Q_DEVICE unsigned pair(unsigned chunk) const {
        return reinterpret_cast<const unsigned*>(data)[chunk * WARP + own_lane()];
    }
    Q_DEVICE void load() {
        const unsigned chunk = position / 64;
        current = pair(chunk), next = pair(chunk + 1), ahead = pair(chunk + 2);
    }
    // REQUIRES: count <= 64.
    Q_DEVICE void advance(unsigned count) {
        const unsigned chunk = position / 64;
        position += count;
        if (position / 64 == chunk) return;
        current = next, next = ahead, ahead = pair(chunk + 3);
    }
    // Each thread that needs one has a word moved into its x, lanes in ascending order. Returns whether there were enough.
    Q_DEVICE bool take(bool need, unsigned& x) {
        const unsigned takers = __ballot_sync(ALL, need), lane = own_lane();
        const unsigned count = __popc(takers), first = position % 64;
        if (count > end - position) return false;
        // Words first .. first + 31 are asked for: of no thread both of `current` and of `next`.
        const unsigned supply = 2 * lane + 1 >= first ? current : next;
        const unsigned place = first + __popc(takers & ((1u << lane) - 1));
        const unsigned found = __shfl_sync(ALL, supply, place / 2 % WARP);
        if (need) x = x << 16 | (place & 1 ? found >> 16 : found & 0xffff);
        advance(count);
        return true;
    }
    // The same for a lane that all threads compute.
    Q_DEVICE bool take_alike(unsigned& x) {
        if (x >= LOW) return true;
        if (position >= end) return false;
        const unsigned found = __shfl_sync(ALL, current, position % 64 / 2);
        x = x << 16 | (position & 1 ? found >> 16 : found & 0xffff);
        advance(1);
        return true;
    }
};

// ---- decoder ----

// A group between passes; `x` is the thread's own, all else is the same in all threads.
struct Group {
    unsigned x[2];
    Words words;
    i64 rounds, tail, mark;   // rounds of the group; where its tail and the block behind the tail's first began, or -1
    i64 detail;               // of what went wrong
    bool bad_index;           // the thread's own: one that it met was no row
};

// A group from what is kept: states (64,), of which those beyond the lanes are anything, and progress (PROGRESS,).
static __device__ void load_group(Group& group, const unsigned* states, const i64* progress, unsigned short* words,
                                  int lanes) {
    const int lane = own_lane();
    group.x[0] = lane < lanes ? states[lane] : 0;
    group.x[1] = lane + WARP < lanes ? states[lane + WARP] : 0;
    group.words.data = words;
    group.words.position = progress[POSITION], group.words.end = progress[END];
    group.rounds = progress[ROUNDS], group.tail = progress[TAIL], group.mark = progress[MARK];
    group.detail = 0, group.bad_index = false;
    group.words.load();
}

static __device__ void store_group(const Group& group, unsigned* states, i64* progress, int lanes) {
    const int lane = own_lane();
    if (lane < lanes) states[lane] = group.x[0];
    if (lane + WARP < lanes) states[lane + WARP] = group.x[1];
    if (lane == 0) {
        progress[POSITION] = group.words.position, progress[END] = group.words.end;
        progress[ROUNDS] = group.rounds, progress[TAIL] = group.tail, progress[MARK] = group.mark;
    }
}

// One uniform 4-bit symbol; the word that x may need is not yet taken.
Q_DEVICE unsigned nibble(unsigned& x, int precision) {
    const unsigned slot = x & ((1u << precision) - 1), value = slot >> (precision - 4);
    x = (x >> precision << (precision - 4)) + slot - (value << (precision - 4));
    return value;
}

// The payload of an escape whose own interval is decoded. All threads alike.
static __device__ Status read_payload(unsigned& x, Words& words, int precision, int offset, unsigned regular,
                                      i64& symbol) {
    const unsigned count = nibble(x, precision);
    bool enough = words.take_alike(x);
    symbol = count;
    if (count > MAX_NIBBLES) return BAD_NIBBLES;
    u64 raw = 0;
    unsigned last = 1;
    for (unsigned k = 0; k < count && enough; ++k) {
        last = nibble(x, precision);
        enough = words.take_alike(x);
        raw |= static_cast<u64>(last) << (4 * k);
    }
    if (!enough) return TRUNCATED;
    const i64 half = raw >> 1;
    symbol = raw & 1 ? static_cast<i64>(offset) - 1 - half : static_cast<i64>(offset) + regular + half;
    return last == 0 || symbol != static_cast<int>(symbol) ? BAD_ESCAPE : OK;
}

// Where a pass lies: `indexes` and `symbols` (size,) are the stream's symbols `first` and following. size <= 2^30.
struct Pass {
    const int* indexes;
    int* symbols;
    i64 first;
    int size;
};

// The pass's row for its symbol `place`, if it has that.
Q_DEVICE uint4 row_at(const Table& table, const Pass& pass, int place, bool active, bool& bad) {
    const unsigned index = active ? pass.indexes[place] : 0;
    const bool outside = index >= static_cast<unsigned>(table.row_count);
    bad = bad || outside;
    return table.rows[outside ? 0 : index];
}

// Gives the states y after a block's half their words, and decodes its escapes, lanes in ascending order.
Q_DEVICE Status settle(Group& group, const Table& table, unsigned y, bool active, bool escape, const uint4& row,
                       unsigned& x, int& symbol) {
    const unsigned lane = own_lane();
    const unsigned escapes = __ballot_sync(ALL, active && escape);
    unsigned from = 0;
    for (;;) {
        // Up to the next lane with an escape, inclusive, whose payload comes before the words of those behind.
        const unsigned next = escapes >> from ? from + __ffs(escapes >> from) - 1 : WARP;
        const bool mine = active && lane >= from && lane <= next;
        if (!group.words.take(mine && y < LOW, y)) return TRUNCATED;
        if (mine) x = y;
        if (next == WARP) return OK;
        unsigned lent = __shfl_sync(ALL, x, next);
        i64 value;
        const Status status =
            read_payload(lent, group.words, table.precision, __shfl_sync(ALL, static_cast<int>(row.z), next),
                         __shfl_sync(ALL, row.w, next) >> 8, value);
        if (status != OK) {
            group.detail = value;
            return status;
        }
        if (lane == next) x = lent, symbol = static_cast<int>(value);
        if (next == WARP - 1) return OK;
        from = next + 1;
    }
}

// `blocks` blocks of HALVES * 32 lanes (or fewer), the first at symbol `place` of the pass, each `stride` after the last.
// Symbols before the pass's first and behind its last are skipped.
template <int HALVES>
static __device__ Status decode_rounds(Group& group, const Table& table, const Pass& pass, int lanes, int place,
                                       int stride, int blocks) {
    const unsigned mask = (1u << table.precision) - 1;
    const int lane = own_lane();
    const auto active_at = [&](int block, int half) {
        const int at = place + block * stride + half * WARP + lane;
        return block < blocks && lane < lanes && static_cast<unsigned>(at) < static_cast<unsigned>(pass.size);
    };
    // Indexes are read two blocks ahead and rows one: neither depends on a state.
    int indexes[HALVES];
    uint4 rows[HALVES];
    const auto index_at = [&](int block, int half) {
        return active_at(block, half) ? pass.indexes[place + block * stride + half * WARP + lane] : 0;
    };
    const auto row_of = [&](int index) {
        const bool outside = static_cast<unsigned>(index) >= static_cast<unsigned>(table.row_count);
        group.bad_index = group.bad_index || outside;
        return table.rows[outside ? 0 : index];
    };
    for (int half = 0; half < HALVES; ++half) {
        rows[half] = row_of(index_at(0, half));
        indexes[half] = index_at(1, half);
    }
    for (int block = 0; block < blocks; ++block) {
        uint4 own[HALVES];
        Cell cells[HALVES];
        for (int half = 0; half < HALVES; ++half) {
            own[half] = rows[half];
            rows[half] = row_of(indexes[half]);
            indexes[half] = index_at(block + 2, half);
        }
        for (int half = 0; half < HALVES; ++half)
            cells[half] = find(table, own[half].x, own[half].y, own[half].w & 0xff, group.x[half] & mask);
        for (int half = 0; half < HALVES; ++half) {
            const bool active = active_at(block, half);
            const Cell cell = cells[half];
            const unsigned y = cell.freq * (group.x[half] >> table.precision) + cell.distance;
            int symbol = static_cast<int>(own[half].z + cell.number);
            const Status status = settle(group, table, y, active, cell.number == own[half].w >> 8, own[half],
                                         group.x[half], symbol);
            if (status != OK) return status;
            if (active) pass.symbols[place + block * stride + half * WARP + lane] = symbol;
        }
    }
    return OK;
}

// Moves what the other lanes hold behind the group's words: there is room.
static __device__ Status start_tail(Group& group, int lanes) {
    const int lane = own_lane();
    Words& words = group.words;
    const bool first = lane >= 1 && lane < lanes, second = lane + WARP < lanes;
    if (__any_sync(ALL, (first && group.x[0] >> 17) || (second && group.x[1] >> 17))) return BAD_STATE;
    if (first) words.data[words.end + lane - 1] = group.x[0] - LOW;
    if (second) words.data[words.end + lane + WARP - 1] = group.x[1] - LOW;
    __syncwarp();
    group.tail = words.position;
    words.end += lanes - 1;
    words.load();
    return OK;
}

// The group's symbols begin .. end - 1, all in lane 0.
static __device__ Status decode_tail(Group& group, const Table& table, const Pass& pass, const Layout& layout, i64 begin,
                                     i64 end) {
    const unsigned mask = (1u << table.precision) - 1;
    const i64 marked = (group.rounds + 1) * layout.lanes;
    const int lane = own_lane();
    unsigned x = __shfl_sync(ALL, group.x[0], 0);
    for (; begin < end; begin += WARP) {
        const int count = end - begin < WARP ? end - begin : WARP;
        const bool active = lane < count;
        const int place = active ? layout.number(begin + lane) - pass.first : 0;
        const uint4 row = row_at(table, pass, place, active, group.bad_index);
        int symbol = 0;
        for (int k = 0; k < count; ++k) {
            const unsigned first = __shfl_sync(ALL, row.x, k), buckets = __shfl_sync(ALL, row.y, k);
            const unsigned widths = __shfl_sync(ALL, row.w, k);
            const Cell cell = find(table, first, buckets, widths & 0xff, x & mask);
            x = cell.freq * (x >> table.precision) + cell.distance;
            if (!group.words.take_alike(x)) return TRUNCATED;
            if (lane == k) symbol = static_cast<int>(row.z + cell.number);
            if (cell.number == widths >> 8) {
                i64 value;
                const int offset = __shfl_sync(ALL, static_cast<int>(row.z), k);
                const Status status = read_payload(x, group.words, table.precision, offset, widths >> 8, value);
                if (status != OK) {
                    group.detail = value;
                    return status;
                }
                if (lane == k) symbol = static_cast<int>(value);
            }
            if (begin + k + 1 == marked) group.mark = group.words.position;
        }
        if (active) pass.symbols[place] = symbol;
    }
    if (lane == 0) group.x[0] = x;
    return OK;
}

// Decodes a group's share of a pass. Unless OK, the group is of no more use, nor are its symbols; another BAD_INDEX may
// hide behind another status.
static __device__ Status decode_pass(Group& group, const Table& table, const Pass& pass, const Layout& layout) {
    const i64 begin = layout.own(pass.first), end = layout.own(pass.first + pass.size);
    const i64 begin_block = begin >> layout.log2_lanes(), end_block = (end + layout.lanes - 1) >> layout.log2_lanes();
    const i64 rounds_end = group.rounds < end_block ? group.rounds : end_block;
    Status status = OK;
    if (begin < end && begin_block < rounds_end) {
        const int place = layout.number(begin_block * layout.lanes) - pass.first;
        const int blocks = rounds_end - begin_block, stride = layout.lanes * layout.groups;
        status = layout.lanes > WARP
            ? decode_rounds<2>(group, table, pass, WARP, place, stride, blocks)
            : decode_rounds<1>(group, table, pass, layout.lanes, place, stride, blocks);
    }
    const i64 tail = rounds_end * layout.lanes > begin ? rounds_end * layout.lanes : begin;
    if (status == OK && tail < end) {
        if (group.tail < 0) status = start_tail(group, layout.lanes);
        if (status == OK) status = decode_tail(group, table, pass, layout, tail, end);
    }
    return status == OK && __any_sync(ALL, group.bad_index) ? BAD_INDEX : status;
}

// What `left_over` of entropy/_lanes_loops.py finds of a group after the stream's `count` symbols: (words left, whether it
// is in a wrong state).
struct LeftOver {
    i64 left;
    bool wrong;
};

static __device__ LeftOver left_over(Group& group, const Layout& layout, i64 count) {
    Words& words = group.words;
    const int lanes = layout.lanes;
    if (layout.own(count) >> layout.log2_lanes() < group.rounds) return {static_cast<i64>(words.end) - words.position, true};
    if (group.tail < 0 && start_tail(group, lanes) != OK) return {0, true};
    const i64 unread = words.end - words.position;
    bool spare = false;
    for (unsigned i = words.position + own_lane(); i < words.end; i += WARP) spare = spare || words.data[i];
    // Of all that the tail reads the lanes hold the last: only if they hold all of it may some be unused.
    const bool short_ = unread > 0 && unread < lanes && (group.rounds > 0 || group.tail < words.end - (lanes - 1));
    const bool long_ = lanes > 1 && group.mark >= 0 && words.position - group.mark >= lanes - 1;
    const bool astray = __shfl_sync(ALL, group.x[0], 0) != LOW;
    return {unread > lanes - 1 ? unread - (lanes - 1) : 0, __any_sync(ALL, spare) || short_ || long_ || astray};
}

// ---- encoder ----

// The encoder's lookup is the compiled loops' (entropy/_lookup.py): rows[r] is (.., base, offset, regular cells), and
// cells[base + symbol] is start | freq << 16 | row << 32 | cost << 48.
struct EncoderTable {
    const uint4* rows;
    const u64* cells;
    int row_count, precision;
};

// A symbol's escape: 2 * (v - last - 1) above the regular ones, 2 * (offset - 1 - v) + 1 below.
Q_DEVICE u64 raw_of(int symbol, const uint4& row) {
    const i64 above = static_cast<i64>(symbol) - static_cast<int>(row.z);
    return above >= 0 ? 2 * (above - row.w) : -2 * above - 1;
}

Q_DEVICE int nibble_count(u64 raw) { return (67 - __clzll(raw)) / 4; }

// A symbol's first interval, start | freq << 16, and its cost in 2^-10 bit. The escape is the row's last cell, so it
// alone has start + freq = 2^precision.
Q_DEVICE unsigned code_of(const EncoderTable& table, int symbol, const uint4& row, unsigned& cost) {
    const bool regular = static_cast<unsigned>(symbol) - row.z < row.w;
    const u64 cell = table.cells[row.y + (regular ? static_cast<unsigned>(symbol) : row.z + row.w)];
    cost = (cell >> 48 & 0x7fff) + (regular ? 0 : (4 + 4 * nibble_count(raw_of(symbol, row))) << 10);
    return static_cast<unsigned>(cell);
}

Q_DEVICE bool is_escape(unsigned code, int precision) { return (code & 0xffff) + (code >> 16) == 1u << precision; }

Q_DEVICE bool is_full(unsigned x, unsigned freq, int precision) { return x >> (32 - precision) >= freq; }

// The state after coding an interval into a state that has room for it.
Q_DEVICE unsigned push(unsigned x, unsigned start, unsigned freq, int precision) {
    return x + x / freq * ((1u << precision) - freq) + start;
}

// The same for a lane that all threads compute: a word may leave it for the place before `top`.
Q_DEVICE void push_alike(unsigned& x, unsigned start, unsigned freq, int precision, unsigned short*& top) {
    if (is_full(x, freq, precision)) {
        --top;
        if (own_lane() == 0) *top = x;
        x >>= 16;
    }
    x = push(x, start, freq, precision);
}

static __device__ void push_payload(unsigned& x, u64 raw, int precision, unsigned short*& top) {
    const unsigned freq = 1u << (precision - 4);
    const int count = nibble_count(raw);
    for (int k = count - 1; k >= 0; --k) push_alike(x, (raw >> (4 * k) & 15) * freq, freq, precision, top);
    push_alike(x, count * freq, freq, precision, top);
}

// All symbols of a stream, and their codes.
struct Source {
    const int *symbols, *indexes;
    unsigned* codes;

    Q_DEVICE u64 raw(const EncoderTable& table, i64 number) const {
        return raw_of(symbols[number], table.rows[indexes[number]]);
    }
};

// Symbols `place` and following, one for each of the first `lanes` threads.
Q_DEVICE void push_lanes(unsigned& x, unsigned code, i64 place, int lanes, const Source& source,
                         const EncoderTable& table, unsigned short*& top) {
    const unsigned lane = own_lane(), freq = code >> 16;
    const bool active = static_cast<int>(lane) < lanes;
    const unsigned escapes = __ballot_sync(ALL, active && is_escape(code, table.precision));
    // Lanes from the last down to `lane`s behind the next escape, then that one, whose payload goes first.
    unsigned left = ALL;
    for (;;) {
        const int next = WARP - 1 - __clz(escapes & left);
        const bool mine = active && (left >> lane & 1) && static_cast<int>(lane) > next;
        const bool full = mine && is_full(x, freq, table.precision);
        const unsigned leaving = __ballot_sync(ALL, full);
        // Of lanes that emit at once the highest comes last, so that they are read in ascending order.
        top -= __popc(leaving);
        if (full) {
            top[__popc(leaving & ((1u << lane) - 1))] = x;
            x >>= 16;
        }
        if (mine) x = push(x, code & 0xffff, freq, table.precision);
        if (next < 0) return;
        unsigned lent = __shfl_sync(ALL, x, next);
        const unsigned own = __shfl_sync(ALL, code, next);
        push_payload(lent, source.raw(table, place + next), table.precision, top);
        push_alike(lent, own & 0xffff, own >> 16, table.precision, top);
        if (static_cast<int>(lane) == next) x = lent;
        left = (1u << next) - 1;
    }
}

// What encoding leaves of a group: its words are begin .. end - 1.
struct Encoded {
    unsigned x[2];
    unsigned short *begin, *end;
    i64 rounds;
};

// The group's last blocks in lane 0, as many as give the other lanes their first states.
static __device__ Encoded encode_tail(const Source& source, i64 size, const EncoderTable& table, const Layout& layout,
                                      unsigned short* top) {
    const int lane = own_lane(), lanes = layout.lanes;
    unsigned short* const end = top;
    unsigned x = LOW;
    i64 left = layout.own(size);
    bool enough = false;
    while (left > 0 && !enough) {
        // The thread's symbol is that which comes when `lane` others of these are done.
        const int count = left < WARP ? left : WARP;
        const i64 number = lane < count ? layout.number(left - 1 - lane) : 0;
        const unsigned code = lane < count ? source.codes[number] : 0;
        for (int k = 0; k < count; ++k) {
            enough = lanes > 1 && (left & (lanes - 1)) == 0 && end - top >= lanes - 1;
            if (enough) break;
            const unsigned own = __shfl_sync(ALL, code, k);
            if (is_escape(own, table.precision))
                push_payload(x, source.raw(table, __shfl_sync(ALL, number, k)), table.precision, top);
            push_alike(x, own & 0xffff, own >> 16, table.precision, top);
            --left;
        }
    }
    // The words that the tail's decoder reads last are the other lanes' first states.
    __syncwarp();
    const int stuffed = end - top < lanes - 1 ? end - top : lanes - 1;
    const auto stuffed_at = [&](int i) { return i < stuffed ? LOW + end[i - stuffed] : LOW; };
    return {{lane == 0 ? x : stuffed_at(lane - 1), stuffed_at(lane + WARP - 1)}, top, end - stuffed, left >> layout.log2_lanes()};
}

// A group of all a stream's symbols. Words are written from `top` down: there must be room for one for each symbol of the
// group and three more for each escape. (A payload of 10 nibbles lengthens a state of 32 bits or less by 40, so at most
// three words leave before it is shorter than the 17 bits that it has at least.)
static __device__ Encoded encode_group(const Source& source, i64 size, const EncoderTable& table, const Layout& layout,
                                       unsigned short* top) {
    Encoded group = encode_tail(source, size, table, layout, top);
    const bool two = layout.lanes > WARP;
    const int lane = own_lane(), lanes = two ? WARP : layout.lanes;
    const i64 stride = static_cast<i64>(layout.lanes) * layout.groups;
    i64 place = layout.number(group.rounds << layout.log2_lanes()) - stride;
    const auto code_at = [&](i64 at) { return at >= 0 && lane < lanes ? source.codes[at + lane] : 0; };
    unsigned codes[2] = {code_at(place), two ? code_at(place + WARP) : 0};
    for (i64 round = 0; round < group.rounds; ++round) {
        const unsigned own[2] = {codes[0], codes[1]};
        codes[0] = code_at(place - stride);
        // A place before the first may still be 0 or more, a half on: what is read there isn't used.
        if (two) {
            codes[1] = code_at(place - stride + WARP);
            push_lanes(group.x[1], own[1], place + WARP, lanes, source, table, group.begin);
        }
        push_lanes(group.x[0], own[0], place, lanes, source, table, group.begin);
        place -= stride;
    }
    return group;
}

}  // namespace rans
