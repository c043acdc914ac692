// A statement that runs on the server, followed from here: progress by server-sent events, the map so far as bytes.

import { bytes, get, post } from "./api.js";
import { decode } from "./frames.js";
import { oneAtATime } from "./dom.js";

/**
 * Follow a job until it has ended. Leaving the page, or following another job, leaves it running.
 */
export class JobFollower {
  /** @param {{onJob: (job: any) => void, onMap: (frame: any, job: any) => void, onLost: (text: string) => void}} calls */
  constructor(calls) {
    this.calls = calls;
    /** @type {EventSource|null} */
    this.source = null;
    this.jobId = 0;
    this.mapVersion = 0;
    this._fetchMap = oneAtATime(async (job) => {
      const buffer = await bytes(`/api/jobs/${job.job_id}/map`).catch(() => null);
      if (buffer && job.job_id === this.jobId) this.calls.onMap(decode(buffer), job);
    });
  }

  /** @param {number} jobId */
  follow(jobId) {
    this.leave();
    this.jobId = jobId;
    this.mapVersion = 0;
    this.source = new EventSource(`/api/jobs/${jobId}/events`);
    this.source.addEventListener("job", (event) => this._take(JSON.parse(event.data)));
    this.source.onerror = async () => {
      if (this.source?.readyState !== EventSource.CLOSED && this.jobId !== jobId) return;
      // The browser tries again by itself; ask once whether there is still anything to hear.
      const job = await get(`/api/jobs/${jobId}`).catch((error) => error);
      if (this.jobId !== jobId) return;
      if (job instanceof Error) this.calls.onLost(job.message);
      else this._take(job);
    };
  }

  _take(job) {
    if (job.job_id !== this.jobId) return;
    const version = job.progress?.map_version ?? 0;
    if (version > this.mapVersion && !["done", "failed"].includes(job.state)) {
      this.mapVersion = version;
      this._fetchMap(job);
    }
    const ended = ["done", "failed", "stopped"].includes(job.state);
    if (ended) this.leave();
    this.calls.onJob(job);
  }

  /** Listen no more. */
  leave() {
    this.source?.close();
    this.source = null;
    this.jobId = 0;
  }
}

/** @param {string} text @returns {Promise<any>} the job */
export const submit = (text) => post("/api/jobs", { text });
/** @param {number} jobId */
export const stop = (jobId) => post(`/api/jobs/${jobId}/stop`);
