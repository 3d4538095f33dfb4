// Whether a step counts, by one thread: metrics[slot] = (loss, norm, applied, –), control = (steps that counted, loss scale,
// finite steps since it changed, factor on gradients). The factor clips the norm and undoes the loss scale; −1 where the
// loss or norm is not finite. With f16 (`scales`) the loss scale is doubled after 2000 finite steps, halved after one
// that is not.

// By the bits: compilers may assume that floats are finite.
fn is_finite(x: f32) -> bool { return (bitcast<u32>(x) & 0x7f800000u) != 0x7f800000u; }

const GROW_AFTER = 2000.0;
const LARGEST_SCALE = 16777216.0;

@compute @workgroup_size(1)
fn main() {
  let metric = p.metrics_base + p.place;
  let norm = metrics[metric + 1u];
  let applied = is_finite(metrics[metric]) && is_finite(norm);
  metrics[metric + 2u] = select(0.0, 1.0, applied);
  let c = p.control_base;
  let scale = control[c + 1u];
  let clips = p.clip > 0.0 && norm > p.clip;
  control[c] += select(0.0, 1.0, applied);
  control[c + 3u] = select(-1.0, select(1.0, p.clip / norm, clips) / scale, applied);
  if (p.scales == 1u) {
    let good = select(0.0, control[c + 2u] + 1.0, applied);
    let grows = good >= GROW_AFTER;
    control[c + 2u] = select(good, 0.0, grows);
    let grown = select(scale, min(2.0 * scale, LARGEST_SCALE), grows);
    control[c + 1u] = select(max(0.5 * scale, 1.0), grown, applied);
  }
}
