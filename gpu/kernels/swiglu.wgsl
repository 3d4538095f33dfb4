// Forward:   out = silu(gate) ∘ up, silu(g) = g · σ(g).      out: [T, F]   gate_up: [T, 2F], gates then ups
// BACKWARD:  d_gate = d_out · up · σ · (1 + gate · (1 − σ)),   d_up = d_out · silu(gate).      d_gate_up: [T, 2F]
// One workgroup a row, a quad a thread at a time. Cost: forward reads 2·T·F, writes T·F; backward reads 3·T·F, writes 2·T·F.

@compute @workgroup_size(64)
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) thread: u32,
) {
  let row = group.x + group.y * groups.x;
  if (row >= p.T) { return; }
  let gates = 2u * row * p.F;
  let ups = gates + p.F;
  for (var i = 4u * thread; i < p.F; i += 256u) {
    let gate = gate_up_quad(gates + i, ups);
    let up = gate_up_quad(ups + i, ups + p.F);
    // e^88 is the last whole power that f32 holds: beyond it, σ is 0 to every sum.
    let sigmoid = 1.0 / (1.0 + exp(min(-gate, vec4(88.0))));
#if BACKWARD
    let dy = d_out_quad(row * p.F + i, (row + 1u) * p.F);
    d_gate_up_store_quad(gates + i, ups, dy * up * sigmoid * (1.0 + gate * (1.0 - sigmoid)));
    d_gate_up_store_quad(ups + i, ups + p.F, dy * gate * sigmoid);
#else
    out_store_quad(row * p.F + i, (row + 1u) * p.F, gate * sigmoid * up);
#end
  }
}
