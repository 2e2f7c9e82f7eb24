-- A stream that is made while another is erased. An append computes where a new stream begins from its snapshot; when
-- it waited for an erasure, that is of before, and the stream would begin anew below what its clients hold. So whoever
-- makes a stream looks once more when the row is there, and is refused if it begins too low (the SQLSTATE says: try
-- again). After and not before the insert, as that comes before the wait. The lock lasts to the commit: an
-- erasure that raises erased_seq comes before this look or after the commit. It is the last lock of its statement, as of
-- an erasure, so it closes no circle. Streams that are there pay nothing. Nodes of the version before are refused, too,
-- and answer that the store is away for a moment.
create function refuse_low_stream() returns trigger language plpgsql set search_path from current as $$
declare
    furthest bigint;
begin
    select erased_seq into furthest from store for share;
    if new.base_seq < furthest then
        raise exception using errcode = 'serialization_failure',
            message = format('a stream was to begin at %s, below what was erased meanwhile: %s', new.base_seq, furthest);
    end if;
    return null;
end
$$;

create trigger streams_begin_above_the_erased after insert on streams
    for each row execute function refuse_low_stream();
