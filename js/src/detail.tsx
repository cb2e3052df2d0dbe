/** What opens under a row: why it is so, what is executed, its jobs. Decides only how that looks. */

import { render } from "preact";
import { clock, duration } from "./format";
import type { Job, RowDetail } from "./messages";
import type { Session } from "./session";

/** One cell across the row; spread, since it is no `td` and takes no focus of its own. */
const CELL = { role: "gridcell" } as const;

export function fillDetail(host: HTMLElement, session: Session, id: number): void {
  const detail = session.store.details.get(id);
  const now = session.now();
  render(
    <div class="skydeck-detail-inner" {...CELL}>
      {detail ? <Parts detail={detail} now={now} /> : <p class="skydeck-muted">Looking…</p>}
    </div>,
    host,
  );
}

function Parts({ detail, now }: { detail: RowDetail; now: number }) {
  return (
    <>
      <section>
        <h4>Why</h4>
        {detail.why.length ? detail.why.map((sentence) => <p key={sentence}>{sentence}</p>) : <p>Nothing to say.</p>}
        {detail.command && (
          <>
            <h4>Command</h4>
            <code class="skydeck-command">{detail.command}</code>
          </>
        )}
      </section>
      <section>
        <h4>Jobs</h4>
        {detail.jobs.length ? <Jobs jobs={detail.jobs} now={now} /> : <p class="skydeck-muted">None yet.</p>}
      </section>
    </>
  );
}

function Jobs({ jobs, now }: { jobs: readonly Job[]; now: number }) {
  return (
    <table class="skydeck-jobs">
      <thead>
        <tr>
          {["job", "run", "status", "started", "took", "exit", "where", ""].map((heading) => (
            <th key={heading}>{heading}</th>
          ))}
        </tr>
      </thead>
      <tbody>
        {jobs.map((job) => (
          <tr key={job.id}>
            <td>{job.id}</td>
            <td>{job.run}</td>
            <td>{job.status}</td>
            <td>{job.started_at === null ? "" : clock(job.started_at)}</td>
            <td>{job.started_at === null ? "" : duration((job.ended_at ?? now) - job.started_at)}</td>
            <td>{job.exit_code ?? ""}</td>
            <td>{job.infra ?? ""}</td>
            <td class="skydeck-muted">{job.error ?? ""}</td>
          </tr>
        ))}
      </tbody>
    </table>
  );
}
