import { EXIT, type ExitCode } from "./exit-codes.ts";

export interface CliErrorOptions {
  /** What to do next. */
  readonly hint?: string | undefined;
  /** The id of the job that goes on, or that failed. */
  readonly jobId?: string | undefined;
  readonly cause?: unknown;
}

/** Everything that ends a command early. `code` is a name that scripts can match; the exit code follows from it. */
export class CliError extends Error {
  readonly code: string;
  readonly exitCode: ExitCode;
  readonly hint: string | undefined;
  readonly jobId: string | undefined;

  constructor(code: string, exitCode: ExitCode, detail: string, options: CliErrorOptions = {}) {
    super(detail, { cause: options.cause });
    this.name = "CliError";
    this.code = code;
    this.exitCode = exitCode;
    this.hint = options.hint;
    this.jobId = options.jobId;
  }

  /** The error as a problem document (RFC 9457). An answer of the server keeps the server's own document. */
  toProblem(): Record<string, unknown> {
    return {
      type: `urn:frazil:error:${this.code}`,
      title: this.code.replaceAll("_", " "),
      code: this.code,
      detail: this.message,
      ...(this.hint === undefined ? {} : { hint: this.hint }),
      ...(this.jobId === undefined ? {} : { jobId: this.jobId }),
    };
  }
}

export function usageError(detail: string, hint?: string): CliError {
  return new CliError("usage", EXIT.usage, detail, { hint });
}

/** A problem document that the server answered with. */
export class ServerProblem extends CliError {
  readonly status: number;
  readonly problem: Record<string, unknown>;

  constructor(status: number, problem: Record<string, unknown>, hint?: string) {
    const code = String(problem.code ?? "internal");
    const exitCode = status >= 400 && status < 500 ? EXIT.refused : EXIT.noServer;
    super(code, exitCode, String(problem.detail ?? problem.title ?? `the server answered ${status}`), { hint });
    this.name = "ServerProblem";
    this.status = status;
    this.problem = problem;
  }

  override toProblem(): Record<string, unknown> {
    return { ...this.problem, ...(this.hint === undefined ? {} : { hint: this.hint }) };
  }
}
