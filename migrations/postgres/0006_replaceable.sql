-- What a newer one of the same collapse key has to mark: few, however many have been replaced. An append looked at each
-- of those in entries_collapse_idx, which stays for the question whether a newer one exists. What has no key costs
-- nothing here. While it is built nobody writes entries: some seconds for some millions, in which publishers are told 503. Marking an entry was no change within its page before, as entries_unexpired_idx has its state, too.
create index entries_replaceable_idx on entries (stream, collapse, seq) where collapse is not null and state = 0;
