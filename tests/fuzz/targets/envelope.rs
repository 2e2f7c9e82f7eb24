//! Envelopes between nodes (`wire::envelope`): whatever is read can be written and read again.

use bytes::Bytes;
use fanfare::domain::{DeviceId, Epoch, NodeId, NotificationId, Seq, Stream, TopicName, UnixMillis, UserId};
use fanfare::wire::envelope::{EntryRef, Item};
use fanfare::wire::{Marked, Tail};

use super::{LONGEST_ERROR, Target, demand, kind_of};

pub(super) const TARGET: Target = Target {
    name: "envelope",
    corpus,
    // A version and a kind each; lengths that promise more than there is.
    words: &[
        b"\x01\x00",
        b"\x01\x01",
        b"\x01\x02",
        b"\x01\x03",
        b"\x01\x04",
        b"\x01\x05",
        b"\x01\x06",
        b"\x02",
        b"\x00\x05alice",
        b"\x01\x04news",
        b"\xff\xff\xff\xff\x0f",
        b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
        b"\x80\x80\x40",
    ],
    check,
};

fn items() -> Vec<Item> {
    let user = UserId::new("alice").expect("valid");
    let node = NodeId::new("n1").expect("valid");
    let stream = Stream::User(user.clone());
    let topic = Stream::Topic(TopicName::new("news").expect("valid"));
    let device = DeviceId::new("phone").ok();
    let entry =
        EntryRef { stream: stream.clone(), epoch: Epoch(3), seq: Seq(70_000), device: device.clone() };
    let id = |number| NotificationId::new(UnixMillis(number), [7; 10]);
    let read = |marked| Item::Read {
        user: user.clone(),
        stream: stream.clone(),
        marked,
        unread: 3,
        version: 45,
        reads: 5,
    };
    vec![
        Item::Stored {
            tail: Tail::of(br#"{"id":"1"}"#),
            expires_at: Some(UnixMillis(9)),
            entries: vec![entry.clone()],
        },
        Item::Unstored {
            tail: Tail::of(b"{}"),
            origin: node.clone(),
            recipients: vec![(Stream::Everyone, None), (topic.clone(), device)],
        },
        Item::Heads(vec![(topic, Epoch(1), Seq(u64::MAX))]),
        Item::Blind { node: node.clone(), for_ms: 3_000 },
        Item::Cancelled { id: id(7), expires_at: None, entries: vec![entry] },
        read(Marked::Ids(vec![id(7), id(8)])),
        read(Marked::UpTo(Seq(119))),
        Item::CheckHeads { node },
    ]
}

fn corpus() -> Vec<Vec<u8>> {
    let alone = items().iter().map(|item| item.encode().to_vec()).collect::<Vec<_>>();
    [alone.clone(), vec![alone.concat()]].concat()
}

/// The items that can be read, and the error at their end.
fn read(bytes: Bytes) -> Result<(Vec<Item>, Option<String>), String> {
    let (mut rest, mut items) = (bytes, vec![]);
    loop {
        let before = rest.len();
        match Item::decode(&mut rest) {
            Ok(Some(item)) => items.push(item),
            Ok(None) => return Ok((items, None)),
            Err(error) => return Ok((items, Some(error.to_string()))),
        }
        demand(rest.len() < before, || "an item was read of no bytes".to_owned())?;
    }
}

fn check(input: &[u8]) -> Result<String, String> {
    let (items, error) = read(Bytes::copy_from_slice(input))?;
    if let Some(error) = &error {
        let length = error.len();
        demand(length <= LONGEST_ERROR, || format!("an error of {length} bytes; at most {LONGEST_ERROR}"))?;
    }
    let written: Vec<u8> = items.iter().flat_map(Item::encode).collect();
    let again = read(written.into())?;
    demand(again == (items.clone(), None), || format!("{items:?} was written and read as {again:?}"))?;
    let kinds: String =
        items.iter().take(4).map(|item| format!("{item:?}").chars().take(2).collect::<String>()).collect();
    Ok(format!("{kinds} {}", kind_of(&error.unwrap_or_default())))
}
