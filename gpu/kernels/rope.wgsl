// Rotary positions (Su et al. 2021), in place.   x: [T, cols], its first heads · D columns turn   angles: [positions, D] f32,
// cosines of the D/2 pairs, then their sines. Numbers j and j + D/2 of a head, (a, b), become
// (a·cos − b·sin, b·cos + a·sin); p.sign is 1, or −1 for the gradient, which turns back.
// One workgroup a row, four pairs a thread at a time. Cost: reads and writes T · heads · D.

const HALF = D / 2u;
const QUADS = (HALF + 3u) / 4u;

@compute @workgroup_size(64)
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) thread: u32,
) {
  let row = group.x + group.y * groups.x;
  if (row >= p.T) { return; }
  let line = positions_load(row) * D;
  for (var i = thread; i < p.heads * QUADS; i += 64u) {
    let start = row * p.cols + (i / QUADS) * D;
    let j = 4u * (i % QUADS);
    let middle = start + HALF;
    let cos_ = angles_quad(line + j, line + HALF);
    let sin_ = p.sign * angles_quad(line + HALF + j, line + D);
    let a = x_quad(start + j, middle);
    let b = x_quad(middle + j, start + D);
    x_store_quad(start + j, middle, a * cos_ - b * sin_);
    x_store_quad(middle + j, start + D, b * cos_ + a * sin_);
  }
}
