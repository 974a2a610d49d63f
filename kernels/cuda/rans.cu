// The lanes coder's kernels: many streams in a launch, a warp for each group of each.
#include "rans.cuh"

#ifndef Q_DYNAMIC_SHARED
#define Q_DYNAMIC_SHARED(name) extern __shared__ __align__(16) unsigned char name[]
#endif

namespace rans {

// A stream's part of a launch, `_PASS` of decoder.py. Its groups are number `base` and following of all.
struct StreamPass {
    Pass pass;
    int lanes, groups, base;
};

// All symbols of a stream to encode, `_SOURCE` of encoder.py. The words of its group g end before
// words[top + (g + 1) * room].
struct StreamSource {
    Source source;
    i64 size, top, room;
    int lanes, groups, base;
};

Q_DEVICE int own_warp() { return (blockIdx.x * blockDim.x + threadIdx.x) / WARP; }

}  // namespace rans

// Decodes a pass of every stream. rows, cells: the table; if staged, blocks copy its `cell_count` words into their
// shared memory, 16 * row_count + 4 * cell_count bytes. owners: the stream of each group. States (groups, 64) and
// progress (groups, PROGRESS) are read from one array and written to another, so that a pass that fails leaves no
// trace. results: (groups, 2), status and detail.
extern "C" __global__ void __launch_bounds__(512)
decode_lanes(const uint4* rows, const unsigned* cells, int row_count, int precision, int cell_count, int staged,
             const rans::StreamPass* streams, const int* owners, int group_count, const unsigned* states,
             unsigned* new_states, const rans::i64* progress, rans::i64* new_progress, unsigned short* words,
             rans::i64* results) {
    using namespace rans;
    Q_DYNAMIC_SHARED(dynamic);
    Table table{rows, cells, row_count, precision};
    if (staged) {
        uint4* const own_rows = reinterpret_cast<uint4*>(dynamic);
        unsigned* const own_cells = reinterpret_cast<unsigned*>(own_rows + row_count);
        for (int i = threadIdx.x; i < row_count; i += blockDim.x) own_rows[i] = rows[i];
        for (int i = threadIdx.x; i < cell_count; i += blockDim.x) own_cells[i] = cells[i];
        __syncthreads();
        table.rows = own_rows, table.cells = own_cells;
    }
    const int number = own_warp();
    if (number >= group_count) return;
    const StreamPass& stream = streams[owners[number]];
    const Layout layout{stream.lanes, stream.groups, number - stream.base};
    Group group;
    load_group(group, states + number * i64{MAX_LANES}, progress + number * i64{PROGRESS}, words, layout.lanes);
    const Status status = decode_pass(group, table, stream.pass, layout);
    store_group(group, new_states + number * i64{MAX_LANES}, new_progress + number * i64{PROGRESS}, layout.lanes);
    if (own_lane() == 0) results[2 * number] = status, results[2 * number + 1] = group.detail;
}

// What is wrong at the end of the streams, whose `pass.first` is the number of their symbols: adds, for each stream,
// the words left and the groups in a wrong state to `ends` (streams, 2).
extern "C" __global__ void __launch_bounds__(512)
finish_lanes(const rans::StreamPass* streams, const int* owners, int group_count, const unsigned* states,
             const rans::i64* progress, unsigned short* words, unsigned long long* ends) {
    using namespace rans;
    const int number = own_warp();
    if (number >= group_count) return;
    const int owner = owners[number];
    const StreamPass& stream = streams[owner];
    const Layout layout{stream.lanes, stream.groups, number - stream.base};
    Group group;
    load_group(group, states + number * i64{MAX_LANES}, progress + number * i64{PROGRESS}, words, layout.lanes);
    const LeftOver found = left_over(group, layout, stream.pass.first);
    if (own_lane() == 0 && found.left) atomicAdd(ends + 2 * owner, static_cast<u64>(found.left));
    if (own_lane() == 0 && found.wrong) atomicAdd(ends + 2 * owner + 1, u64{1});
}

// The codes of all streams' symbols, stream blockIdx.y's along blockIdx.x. totals: (streams, 3); adds cost and escapes, and
// keeps the least place of an index that is no row.
extern "C" __global__ void __launch_bounds__(256)
to_codes(const uint4* rows, const unsigned long long* cells, int row_count, int precision,
         const rans::StreamSource* streams, unsigned long long* totals) {
    using namespace rans;
    const EncoderTable table{rows, cells, row_count, precision};
    const StreamSource& stream = streams[blockIdx.y];
    const Source& source = stream.source;
    u64* const own = totals + 3 * blockIdx.y;
    u64 cost = 0;
    unsigned escapes = 0;
    const i64 step = i64{blockDim.x} * gridDim.x;
    for (i64 i = i64{blockIdx.x} * blockDim.x + threadIdx.x; i < stream.size; i += step) {
        const unsigned index = source.indexes[i];
        if (index >= static_cast<unsigned>(row_count)) {
            atomicMin(own + 2, static_cast<u64>(i));
            continue;
        }
        unsigned own_cost;
        const unsigned code = code_of(table, source.symbols[i], rows[index], own_cost);
        source.codes[i] = code;
        cost += own_cost;
        escapes += is_escape(code, precision);
    }
    for (int h = WARP / 2; h > 0; h /= 2) {
        cost += __shfl_xor_sync(ALL, cost, h);
        escapes += __shfl_xor_sync(ALL, escapes, h);
    }
    if (own_lane() == 0 && cost) atomicAdd(own, cost);
    if (own_lane() == 0 && escapes) atomicAdd(own + 1, static_cast<u64>(escapes));
}

// Encodes all groups. states: (groups, 64); spans: (groups, 3), the words' first and end, and the rounds.
extern "C" __global__ void __launch_bounds__(512)
encode_lanes(const uint4* rows, const unsigned long long* cells, int row_count, int precision,
             const rans::StreamSource* streams, const int* owners, int group_count, unsigned* states,
             rans::i64* spans, unsigned short* words) {
    using namespace rans;
    const int number = own_warp();
    if (number >= group_count) return;
    const StreamSource& stream = streams[owners[number]];
    const Layout layout{stream.lanes, stream.groups, number - stream.base};
    const EncoderTable table{rows, cells, row_count, precision};
    unsigned short* const top = words + stream.top + (layout.group + 1) * stream.room;
    const Encoded group = encode_group(stream.source, stream.size, table, layout, top);
    const int lane = own_lane();
    unsigned* const own = states + number * i64{MAX_LANES};
    if (lane < layout.lanes) own[lane] = group.x[0];
    if (lane + WARP < layout.lanes) own[lane + WARP] = group.x[1];
    if (lane == 0) {
        spans[3 * number] = group.begin - words;
        spans[3 * number + 1] = group.end - words;
        spans[3 * number + 2] = group.rounds;
    }
}

// Packs the words of all groups: group g's go to `joined` from starts[g] on. A block for each group.
extern "C" __global__ void __launch_bounds__(256)
join_words(const rans::i64* spans, const rans::i64* starts, const unsigned short* words, unsigned short* joined) {
    const rans::i64 first = spans[3 * blockIdx.x], count = spans[3 * blockIdx.x + 1] - first;
    for (rans::i64 i = threadIdx.x; i < count; i += blockDim.x) joined[starts[blockIdx.x] + i] = words[first + i];
}
