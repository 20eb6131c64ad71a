/** Settings for a small machine that also runs engines. Commits stay durable: fsync and synchronous_commit keep their defaults (on). */
const SETTINGS: Record<string, string> = {
  listen_addresses: "'127.0.0.1'",
  unix_socket_directories: "''",
  max_connections: "200",
  password_encryption: "'scram-sha-256'",
  timezone: "'UTC'",
  log_timezone: "'UTC'",
  shared_buffers: "'128MB'",
  work_mem: "'8MB'",
  maintenance_work_mem: "'64MB'",
  effective_cache_size: "'512MB'",
  random_page_cost: "1.1",
  // One server, no replicas: the least write-ahead log that survives a crash.
  wal_level: "'minimal'",
  max_wal_senders: "0",
  max_logical_replication_workers: "0",
  max_wal_size: "'1GB'",
  min_wal_size: "'80MB'",
  checkpoint_timeout: "'15min'",
  // Short queries only; parallel workers would need shared memory, of which containers have little.
  jit: "off",
  max_parallel_workers_per_gather: "0",
  max_parallel_maintenance_workers: "0",
  io_method: "'sync'",
  // Lease tables turn over fast.
  autovacuum_naptime: "'15s'",
  // Statements may hold secrets and never reach the log; their errors go to the client that sent them.
  log_min_messages: "'log'",
  log_min_error_statement: "'panic'",
  log_checkpoints: "off",
  log_autovacuum_min_duration: "-1",
};

export function renderSettings(port: number): string {
  const lines = Object.entries({ ...SETTINGS, port: String(port) }).map(([name, value]) => `${name} = ${value}`);
  return `# Written anew at each start.\n${lines.join("\n")}\n`;
}
