/** The least that WebGPU promises, where `requestDevice` gives all that the adapter has. */
export const LEAST_LIMITS: Record<string, number> = {
  maxStorageBuffersPerShaderStage: 8,
  maxStorageBufferBindingSize: 128 << 20,
  maxBufferSize: 256 << 20,
  maxComputeWorkgroupStorageSize: 16 << 10,
  maxComputeInvocationsPerWorkgroup: 256,
  maxComputeWorkgroupSizeX: 256,
};

/**
 * Makes all adapters say that they have no more than the least limits, so that devices are asked for no more, and give
 * no more. Works in Deno and in a page.
 * @returns ends it
 */
export function forceLeastLimits(): () => void {
  const gpu = navigator.gpu;
  const request = gpu.requestAdapter;
  gpu.requestAdapter = async (options) => {
    const adapter = await request.call(gpu, options);
    if (!adapter) return null;
    const limits = new Proxy(adapter.limits, {
      get: (target, name) => LEAST_LIMITS[name as string] ?? Reflect.get(target, name, target),
    });
    return new Proxy(adapter, {
      get: (target, name) => {
        if (name === "limits") return limits;
        const value = Reflect.get(target, name, target);
        return typeof value === "function" ? value.bind(target) : value;
      },
    });
  };
  return () => gpu.requestAdapter = request;
}
