// Backward of attention.wgsl: dqkv, of the shape of qkv, from d_out [T, E], out [T, E], lse [T, H] and qkv. With
// p = exp(q·k/√D − lse), delta = d_out · out and ds = p · (d_out·v − delta):   dq = Σ ds·k/√D,   dk = Σ ds·q/√D,   dv = Σ p·d_out.
// Scores are computed again rather than kept (Dao et al. 2022). Two kernels, so that each result is added up in one place, in order:
//
// QUERIES: a block of 64 queries and a head against the keys from `begin` on, 32 at a time. Leaves dq, and delta [T, H].
//   items: (first, begin) as in attention.wgsl
// Otherwise: a block of 64 keys and a head of theirs against the queries up to `end` of its GROUP heads. Leaves dk and dv.
//   items: (first, end) for every block of 64 tokens: its first, and the end of the document that its last token is in
//
// Cost for a document of n tokens and one head: 3·n²·D and 4·n²·D flops, about n²·D/17 elements read each, most of them from cache.
// Registers about 80 and 100 at D = 32.

#if QUERIES
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

  var products = vec4<f32>();
  var log_sum = vec4<f32>();
#for i in 0..4
  {
    let q = min(query[$i], p.T - 1u);
    let at = q * p.E + head * D;
    for (var d = column; d < QUADS; d += 8u) {
      products[$i] += dot(head_quad(q, D_OUT, head, d), out_quad(at + 4u * d, at + D));
    }
    log_sum[$i] = lse_load(q * p.H + head);
  }
#end
  let row_delta = rows_sum(products, row, column);

#for w in 0..PARTS
  var sum_$w = mat4x4<f32>();
#end
  for (var tile = begin; tile < end; tile += 32u) {
    var s = mat4x4<f32>();
    var dp = mat4x4<f32>();
#for d in 0..PARTS
    workgroupBarrier();
    turn(first, QUERY, tile, KEY, head, $du, thread);
    workgroupBarrier();
    s = multiply(s, DEPTH4, row, column);
    workgroupBarrier();
    turn(first, D_OUT, tile, VALUE, head, $du, thread);
    workgroupBarrier();
    dp = multiply(dp, DEPTH4, row, column);
#end
#for j in 0..4
    {
      let key = vec4(tile + 4u * column + $ju);
      let probability = select(vec4<f32>(), exp(s[$j] * p.scale - log_sum), (key >= start) & (key <= query));
      s[$j] = probability * (dp[$j] - row_delta);
    }
#end
    workgroupBarrier();
    weigh(s, row, column);
#for w in 0..PARTS
    if ($wu > 0u) { workgroupBarrier(); }
    lay(tile, KEY, head, $wu, thread);
    workgroupBarrier();
    sum_$w = multiply(sum_$w, 8u, row, column);
#end
  }

#for i in 0..4
  if (query[$i] < end) {
    let to = head_start(query[$i], QUERY, head);
#for w in 0..PARTS
    dqkv_store_quad(to + 32u * $wu + 4u * column, to + D, row_of(sum_$w, $iu) * p.scale);
#end
    if (column == 0u) { delta[p.delta_base + query[$i] * p.H + head] = row_delta[$i]; }
  }
#end
}
#else
@compute @workgroup_size(128)
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) thread: u32,
) {
  let block = group.x + group.z * groups.x;
  if (block >= p.blocks) { return; }
  let first = items_load(2u * block);
  let end = items_load(2u * block + 1u);
  let row = thread / 8u;
  let column = thread % 8u;
  let key = vec4(first + 4u * row) + FOUR;

#for w in 0..PARTS
  var sum_dk_$w = mat4x4<f32>();
  var sum_dv_$w = mat4x4<f32>();
#end
  for (var head = group.y * GROUP; head < (group.y + 1u) * GROUP; head++) {
  for (var tile = first; tile < end; tile += 32u) {
    var s = mat4x4<f32>();
    var dp = mat4x4<f32>();
#for d in 0..PARTS
    workgroupBarrier();
    turn(first, KEY, tile, QUERY, head, $du, thread);
    workgroupBarrier();
    s = multiply(s, DEPTH4, row, column);
    workgroupBarrier();
    turn(first, VALUE, tile, D_OUT, head, $du, thread);
    workgroupBarrier();
    dp = multiply(dp, DEPTH4, row, column);
#end
#for j in 0..4
    {
      let query = tile + 4u * column + $ju;
      let q = min(query, p.T - 1u);
      let start = q - positions_load(q);
      let seen = (key >= vec4(start)) & (key <= vec4(query)) & vec4(query < end);
      s[$j] = select(vec4<f32>(), exp(s[$j] * p.scale - lse_load(q * p.H + head)), seen);
      dp[$j] = s[$j] * (dp[$j] - delta_load(q * p.H + head));
    }
#end
    workgroupBarrier();
    weigh(s, row, column);
#for w in 0..PARTS
    if ($wu > 0u) { workgroupBarrier(); }
    lay(tile, D_OUT, head, $wu, thread);
    workgroupBarrier();
    sum_dv_$w = multiply(sum_dv_$w, 8u, row, column);
#end
    workgroupBarrier();
    weigh(dp, row, column);
#for w in 0..PARTS
    if ($wu > 0u) { workgroupBarrier(); }
    lay(tile, QUERY, head, $wu, thread);
    workgroupBarrier();
    sum_dk_$w = multiply(sum_dk_$w, 8u, row, column);
#end
  }
  }

#for i in 0..4
  if (key[$i] < p.T) {
    let to = head_start(key[$i], KEY, group.y * GROUP);
    let to_value = head_start(key[$i], VALUE, group.y * GROUP);
#for w in 0..PARTS
    {
      let d = 32u * $wu + 4u * column;
      dqkv_store_quad(to + d, to + D, row_of(sum_dk_$w, $iu) * p.scale);
      dqkv_store_quad(to_value + d, to_value + D, row_of(sum_dv_$w, $iu));
    }
#end
  }
#end
}
#end
