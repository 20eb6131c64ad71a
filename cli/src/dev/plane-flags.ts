/**
 * How much garbage the control plane's process may let lie, in MiB. It needs little, however many tasks a job has; by default V8 lets its heap grow to several
 * times of that on a machine with much memory. The second is also the most that it may ever need: many of the largest submissions at the same moment.
 */
export const PLANE_NODE_FLAGS = ["--max-semi-space-size=8", "--max-old-space-size=2000"] as const;
