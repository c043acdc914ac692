"""The page: a local web server through which a person explores maps while they are computed.

Above the session, which does all the work; `obeql ui`, `.ui` and `Session.ui` start it through `obeql.session.late`.

    server     starts and stops it;  app: the addresses;  access: who may ask;  statics: the files of the page
    worker     statements one after the other, with progress (live) and Stop;  events: progress as server-sent events
    guard      which statements a page may run;  reading_sql: which SQL
    reader     lists and pictures;  map_frames: maps as bytes;  sheet: maps of a run, filtered and sorted by SQL
    editing    highlighting, completion, mistakes;  statement_parts: a statement and its controls
    uploads    images that come in;  probing: the patch under the hand;  comparing: maps beside each other
"""
