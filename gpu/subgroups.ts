export async function subgroupsHelp(_gpu: GPUDevice): Promise<boolean> {
  return false;
}
