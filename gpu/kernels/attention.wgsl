// Causal attention within each document, running softmax (FlashAttention: Dao et al. 2022), no T × T matrix.
// qkv: [T, E + 2E / GROUP]   out: [T, E]   lse: [T, H] f32, log-sum-exp of the scaled scores   positions: [T] in the document
// E = H·D; GROUP heads of queries share one of keys and values
// items: (first, begin) for every block of 64 tokens: its first, and the first of the document that it starts in
//
// A workgroup takes a block of queries and a head, and walks the keys from `begin` on, 32 at a time (attention_tiles.wgsl): scores,
// the maximum of each row, exp, and the weighted sum of the values. A block may hold queries of several documents: the query at t
// sees the keys from t − positions[t] to t. For a row that sees none of the first tiles, these add finite nonsense, which its first
// real maximum multiplies by exp(LOWEST − maximum) = 0.
//
// Cost for a document of n tokens and one head: 2·n²·D flops, n²·D/32 elements read, n·D written. Registers about 60 at D = 32.

const LOWEST = -3.0e38;

@compute @workgroup_size(128)
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) thread: u32,
) {
  let block = group.x + group.z * groups.x;
  if (block >= p.blocks) { return; }
  let first = items_load(2u * block);
  let begin = items_load(2u * block + 1u);
  let end = min(first + 64u, p.T);
  let head = group.y;
  let row = thread / 8u;
  let column = thread % 8u;
  let query = vec4(first + 4u * row) + FOUR;
  let start = query - positions_of(query);

  var largest = vec4(LOWEST);
  var total = vec4<f32>();
#for w in 0..PARTS
  var sum_$w = mat4x4<f32>();
#end
  for (var tile = begin; tile < end; tile += 32u) {
    var s = mat4x4<f32>();
#for d in 0..PARTS
    if ($du > 0u) { workgroupBarrier(); }
    turn(first, QUERY, tile, KEY, head, $du, thread);
    workgroupBarrier();
    s = multiply(s, DEPTH4, row, column);
#end
#for j in 0..4
    let key_$j = vec4(tile + 4u * column + $ju);
    s[$j] = select(vec4(LOWEST), s[$j] * p.scale, (key_$j >= start) & (key_$j <= query));
#end
    let larger = max(largest, rows_max(max(max(s[0], s[1]), max(s[2], s[3])), row, column));
    let shrink = exp(largest - larger);
    largest = larger;
#for j in 0..4
    s[$j] = exp(s[$j] - larger);
#end
    total = total * shrink + (s[0] + s[1]) + (s[2] + s[3]);
    weigh(s, row, column);
#for w in 0..PARTS
    if ($wu > 0u) { workgroupBarrier(); }
    lay(tile, VALUE, head, $wu, thread);
    workgroupBarrier();
#for j in 0..4
    sum_$w[$j] *= shrink;
#end
    sum_$w = multiply(sum_$w, 8u, row, column);
#end
    workgroupBarrier();
  }

  total = rows_sum(total, row, column);
#for i in 0..4
  if (query[$i] < end) {
    let to = query[$i] * p.E + head * D;
#for w in 0..PARTS
    out_store_quad(to + 32u * $wu + 4u * column, to + D, row_of(sum_$w, $iu) / total[$i]);
#end
    if (column == 0u) { lse[p.lse_base + query[$i] * p.H + head] = largest[$i] + log(total[$i]); }
  }
#end
}
