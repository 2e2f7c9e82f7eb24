//! Tests of envelopes: what is put together is read again, and nothing that is damaged makes a node panic.

use super::*;
use crate::domain::TopicName;

fn items() -> Vec<Item> {
    let user = Stream::User(UserId::new("alice").expect("valid"));
    let phone = DeviceId::new("phone").expect("valid");
    vec![
        Item::Stored {
            tail: Tail::of(br#"{"id":"1"}"#),
            expires_at: Some(UnixMillis(9)),
            entries: vec![EntryRef {
                stream: user.clone(),
                epoch: Epoch(3),
                seq: Seq(1),
                device: Some(phone),
            }],
        },
        Item::Unstored {
            tail: Tail::of(b"{}"),
            origin: NodeId::new("n2").expect("valid"),
            recipients: vec![(Stream::Everyone, None)],
        },
        Item::Heads(vec![(Stream::Topic(TopicName::new("news").expect("valid")), Epoch(1), Seq(70_000))]),
        Item::Blind { node: NodeId::new("n1").expect("valid"), for_ms: 3_000 },
        Item::Cancelled {
            id: notification(7),
            expires_at: None,
            entries: vec![EntryRef { stream: user.clone(), epoch: Epoch(3), seq: Seq(2), device: None }],
        },
        Item::Read {
            user: UserId::new("alice").expect("valid"),
            stream: user.clone(),
            marked: Marked::Ids(vec![notification(7), notification(8)]),
            unread: 3,
            version: 45,
            reads: 5,
        },
        Item::Read {
            user: UserId::new("alice").expect("valid"),
            stream: user,
            marked: Marked::UpTo(Seq(119)),
            unread: 0,
            version: 46,
            reads: 6,
        },
        Item::CheckHeads { node: NodeId::new("n1").expect("valid") },
    ]
}

#[test]
fn envelopes_put_one_after_the_other_are_an_envelope() {
    let mut envelope: Bytes = items().iter().flat_map(Item::encode).collect::<Vec<u8>>().into();
    let mut read = Vec::new();
    while let Some(item) = Item::decode(&mut envelope).expect("undamaged") {
        read.push(item);
    }
    assert_eq!(read, items());
}

#[test]
fn no_cut_or_flipped_byte_makes_decoding_panic() {
    let whole: Vec<u8> = items().iter().flat_map(Item::encode).collect();
    for at in 0..whole.len() {
        let mut flipped = whole.clone();
        flipped[at] ^= 0x55;
        for bytes in [whole[..at].to_vec(), flipped] {
            let mut envelope = Bytes::from(bytes);
            while let Ok(Some(_)) = Item::decode(&mut envelope) {}
        }
    }
}

#[test]
fn an_item_of_a_later_kind_is_refused_and_what_came_before_it_is_read() {
    let mut envelope: Bytes = items().iter().flat_map(Item::encode).chain([VERSION, 100, 1, 2]).collect();
    for expected in items() {
        assert_eq!(Item::decode(&mut envelope), Ok(Some(expected)));
    }
    assert!(matches!(Item::decode(&mut envelope), Err(EnvelopeError::Damaged(_))));
}
