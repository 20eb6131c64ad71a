/** CPU seconds by role as a sentence: where the time of a thousand of these went. */
export function profileNote(byRole: Readonly<Record<string, number>>, count: number, what: string): string {
  const perThousand = Object.entries(byRole)
    .map(([role, seconds]) => [role, (seconds * 1_000) / count] as const)
    .sort(([, one], [, other]) => other - one);
  const total = perThousand.reduce((sum, [, seconds]) => sum + seconds, 0);
  const parts = perThousand.map(([role, seconds]) => `${role} ${seconds.toFixed(3)}`);
  return `CPU seconds per 1,000 ${what}: ${parts.join(", ")}; in all ${total.toFixed(3)}.`;
}
