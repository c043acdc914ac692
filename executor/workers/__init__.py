"""Workers: the images of a plan explained by several processes, one coordinator that keeps what they find.

    coordinator      distribute(): the loop that hands out images and takes what comes back     (this process)
    work_queue       the images that no worker has, and how many one gets at once
    pool             what the coordinator knows of workers, whatever they are
    process_pool     workers as processes of this machine, each at the end of a pipe
    ray              workers as actors of a Ray cluster, each with one call under way
    protocol         what goes over the line between both
    shards           files of maps, which workers may write instead of sending the maps
    model_transfer   the network as a file, of which workers get the path or the bytes
    worker           what a worker does: `execute`, with its line as feed, sink and source         (the others)

A worker asks for images when it wants some, as many as it computes in a fraction of a second, and the fast ones get
more. What a worker sends waits in its line until the coordinator takes it: a slow store slows the workers and fills no
memory.
"""

from obeql.executor.workers.coordinator import distribute

__all__ = ["distribute"]
