//! The names of keys and the text of members in Redis.
//!
//! Owns the layout (the table in [`super`]). Ids never have `/`, `{` or `}`, so nothing is escaped,
//! and what stands in braces is the hash tag of Redis Cluster
//! (<https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/#hash-tags>):
//! all keys of one user, or of one node, are in one slot.

use crate::domain::{NodeId, TopicName, UserId};
use crate::presence::Member;

/// The index of nodes: a sorted set, id -> deadline of the lease in Redis milliseconds.
pub(super) const NODES: &str = "nodes";

pub(super) fn user(user: &UserId) -> String {
    format!("presence:{{{user}}}")
}

pub(super) fn topic(topic: &TopicName) -> String {
    format!("topic:{{{topic}}}")
}

pub(super) fn node(node: &NodeId) -> String {
    format!("node:{{{node}}}")
}

pub(super) fn node_users(node: &NodeId) -> String {
    format!("node-users:{{{node}}}")
}

pub(super) fn left_users(node: &NodeId) -> String {
    format!("node-users-left:{{{node}}}")
}

pub(super) fn ticket(ticket: &str) -> String {
    format!("ticket:{{{ticket}}}")
}

/// `node/connection/device`, the device empty if there is none.
pub(super) fn member(member: &Member) -> String {
    let device = member.device.as_ref().map_or("", |device| device.as_str());
    format!("{}/{}/{device}", member.node, member.connection)
}

/// The member of `user` that `text` says, or `None` if it is none of ours: something else
/// writes to this Redis, and what it wrote must not take presence down.
pub(super) fn parse_member(user: &UserId, text: &str) -> Option<Member> {
    let mut parts = text.split('/');
    let (node, connection, device) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() {
        return None;
    }
    Some(Member {
        user: user.clone(),
        node: node.parse().ok()?,
        connection: connection.parse().ok()?,
        device: match device {
            "" => None,
            id => Some(id.parse().ok()?),
        },
    })
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "the ids are written out and valid")]
mod tests {
    use super::*;
    use crate::domain::{ConnectionId, UnixMillis};

    #[test]
    fn a_member_reads_back_with_every_character_that_ids_may_have() {
        for device in [None, Some("AZaz09._~@|:-")] {
            let expected = Member {
                user: UserId::new("u").unwrap(),
                node: NodeId::new("n|1~x:y@z").unwrap(),
                connection: ConnectionId::new(UnixMillis(7), 9),
                device: device.map(|id| id.parse().unwrap()),
            };
            let text = member(&expected);
            assert_eq!(parse_member(&expected.user, &text), Some(expected));
        }
    }

    #[test]
    fn what_others_wrote_is_no_member() {
        let user = UserId::new("u").unwrap();
        for text in ["", "n1", "n1/", "n1/00/d", "n1/0000000000000001/d/e", "/0000000000000001/"] {
            assert_eq!(parse_member(&user, text), None, "{text:?}");
        }
    }
}
