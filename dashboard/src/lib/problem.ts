/** What went wrong with a request, as RFC 9457 problem details tell it, sorted to the fields of a form. */

export interface FieldError {
  readonly field: string;
  readonly detail: string;
}

export interface Problem {
  readonly title: string;
  readonly detail?: string;
  /** 0 where no response came at all. */
  readonly status: number;
  readonly requestId?: string;
  /** After so many seconds it is worth another try. */
  readonly retryAfter?: number;
  readonly errors: readonly FieldError[];
}

export interface FormErrors {
  /** The first complaint about each field of the form. */
  readonly fields: Readonly<Record<string, string>>;
  /** What concerns no field that the form shows. */
  readonly general: readonly string[];
}

export const NO_ERRORS: FormErrors = { fields: {}, general: [] };

export class ProblemError extends Error {
  override readonly name = 'ProblemError';

  constructor(readonly problem: Problem) {
    super(problem.detail ?? problem.title);
  }
}

/** Reads the problem out of a failed response. A proxy in between may answer with anything at all. */
export async function problemOf(response: Response): Promise<Problem> {
  const retryAfter = Number.parseInt(response.headers.get('retry-after') ?? '', 10);
  const fallback: Problem = {
    title: response.statusText === '' ? 'The request failed' : response.statusText,
    status: response.status,
    errors: [],
    ...(retryAfter > 0 && { retryAfter }),
  };
  if (!(response.headers.get('content-type') ?? '').includes('json')) return fallback;
  try {
    return readProblem(await response.json(), fallback);
  } catch {
    return fallback;
  }
}

/** Whether a response's status says that the caller is unknown, or may not do this. */
export function isDenied(status: number): boolean {
  return status === 401 || status === 403;
}

/** The problem of a request that got no response. */
export function unreachable(detail: string): Problem {
  return {
    title: 'The server could not be reached',
    detail,
    status: 0,
    errors: [],
  };
}

/**
 * Sorts a problem's complaints to the fields of a form. What is about a part of a field is said beside it, with the part;
 * what has no field there is said for the form as a whole.
 */
export function formErrors(problem: Problem, fields: readonly string[]): FormErrors {
  const byField: Record<string, string> = {};
  const general: string[] = [];
  for (const { field, detail } of problem.errors) {
    const shown = fieldWith(field, fields);
    const complaint = shown === field ? detail : `${field}: ${detail}`;
    if (shown === undefined) general.push(complaint);
    else byField[shown] ??= complaint;
  }
  const everythingHasAField = problem.errors.length > 0 && general.length === 0;
  if (!everythingHasAField) general.unshift(summary(problem));
  // A problem with a single complaint says it twice.
  return { fields: byField, general: [...new Set(general)] };
}

/** The field of a form that a field of the API is in: "transform" has "transform[0].cast.to" in it. */
function fieldWith(path: string, fields: readonly string[]): string | undefined {
  const around = fields.filter(
    (field) => path === field || path.startsWith(`${field}.`) || path.startsWith(`${field}[`),
  );
  return around.reduce<string | undefined>(
    (nearest, field) => (field.length > (nearest?.length ?? -1) ? field : nearest),
    undefined,
  );
}

/** A problem in one sentence. */
export function summary(problem: Problem): string {
  const text = problem.detail ?? problem.title;
  // The id finds the request in the server's log: only a fault of the server makes it worth showing.
  return problem.status >= 500 && problem.requestId !== undefined
    ? `${text} (request ${problem.requestId})`
    : text;
}

/** With a capital and a full stop, whichever way it was said: beside other sentences. */
export function sentence(text: string): string {
  const said = text.charAt(0).toUpperCase() + text.slice(1);
  return /[.!?…]$/.test(said) ? said : `${said}.`;
}

function readProblem(body: unknown, fallback: Problem): Problem {
  if (!isRecord(body)) return fallback;
  const { title, detail, status, request_id: requestId, errors } = body;
  return {
    ...fallback,
    title: typeof title === 'string' ? title : fallback.title,
    status: typeof status === 'number' ? status : fallback.status,
    errors: Array.isArray(errors) ? errors.filter(isFieldError) : [],
    ...(typeof detail === 'string' && { detail }),
    ...(typeof requestId === 'string' && { requestId }),
  };
}

function isFieldError(value: unknown): value is FieldError {
  return isRecord(value) && typeof value.field === 'string' && typeof value.detail === 'string';
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null;
}
