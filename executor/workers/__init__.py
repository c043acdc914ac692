"""Worker processes: the images of a plan explained by several processes, one coordinator that keeps what they find.

    coordinator   distribute(): the loop that hands out images and takes what comes back     (this process)
    crew          the processes: started, replaced when they die, ended
    messages      what goes through the pipes
    worker        what a process does: `execute`, with the pipe as its feed, sink and source   (the others)
    shards        files of maps, which workers may write instead of sending the maps
    shipping      the network as a file that workers map into their memory

A worker asks for an image when it wants one, so that no image waits in a queue and the fast ones get more. What a
worker sends waits in its pipe until the coordinator takes it: a slow store slows the workers and fills no memory.
"""

from obeql.executor.workers.coordinator import distribute

__all__ = ["distribute"]
