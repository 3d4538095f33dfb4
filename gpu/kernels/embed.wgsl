// Forward:   x[t] = s · r with s = wte[token] + wpe[position] and r = 1 / sqrt(mean(s²) + 1e-5).       x: [T, E] f32
// BACKWARD:  ds[t] = r · (dx − ŝ · mean(dx · ŝ)) with ŝ = s · r: what embed_gather.wgsl adds to both tables.   ds, dx: [T, E] f32
// One workgroup a row, two passes, the second from cache.
// Cost: forward reads 2·T·E of the tables, writes T·E; backward reads T·E more.

fn summed(token: u32, position: u32, i: u32) -> vec4<f32> {
  let at = token * p.E;
  let place = position * p.E;
  return wte_quad(at + i, at + p.E) + wpe_quad(place + i, place + p.E);
}

fn kernel(group: vec3<u32>, groups: vec3<u32>, thread: u32) {
  let row = group.x + group.y * groups.x;
  if (row >= p.T) { return; }
  let start = row * p.E;
  let end = start + p.E;
  let token = tokens_load(row);
  let position = positions_load(row);

  var squares = 0.0;
  var products = 0.0;
  for (var i = 4u * thread; i < p.E; i += 4u * THREADS) {
    let s = summed(token, position, i);
    squares += dot(s, s);
#if BACKWARD
    products += dot(s, dx_quad(start + i, end));
#end
  }
  let r = inverseSqrt(workgroup_sum_f32(squares, thread) / f32(p.E) + 1e-5);
#if BACKWARD
  let mean = workgroup_sum_f32(products, thread) * r / f32(p.E);
#end
  for (var i = 4u * thread; i < p.E; i += 4u * THREADS) {
    let s = summed(token, position, i);
#if BACKWARD
    ds_store_quad(start + i, end, r * (dx_quad(start + i, end) - s * r * mean));
#else
    x_store_quad(start + i, end, s * r);
#end
  }
}
