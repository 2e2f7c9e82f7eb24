//! What dead nodes have left in Redis, for their survivors.
//!
//! Owns the taking over. It must never take from a living node what that node itself has announced.

use std::collections::BTreeSet;

use deadpool_redis::redis::pipe;

use super::{BATCH, RedisPresence, keys};
use crate::domain::{NodeId, UserId};
use crate::metrics::presence::Operation;
use crate::presence::{Located, Member, PresenceError, Route};

/// Takes up to `ARGV[1]` users out of what an earlier life of the node left (`KEYS[3]`), and out of its own
/// (`KEYS[2]`) if its lease (`KEYS[1]`) has run out. All keys are of one slot.
const CLAIM: &str = "
local limit = tonumber(ARGV[1])
local earlier = redis.call('SPOP', KEYS[3], limit)
if #earlier >= limit or redis.call('EXISTS', KEYS[1]) == 1 then return {earlier, {}} end
return {earlier, redis.call('SPOP', KEYS[2], limit - #earlier)}
";

impl RedisPresence {
    pub(super) async fn nodes_without_lease(&self) -> Result<Vec<NodeId>, PresenceError> {
        let known = self.known_leases(Operation::DeadNodes).await?;
        let dead: BTreeSet<NodeId> =
            known.into_iter().filter(|(_, lease)| lease.is_none()).map(|(node, _)| node).collect();
        Ok(dead.into_iter().collect())
    }

    /// Claims, then removes the node's connections of the claimed: those are in other slots. Should this stop
    /// half-way, what is left of them runs out.
    pub(super) async fn claim_users_of(
        &self,
        node: &NodeId,
        limit: u32,
    ) -> Result<Vec<UserId>, PresenceError> {
        let ((earlier, own),): ((Vec<String>, Vec<String>),) = self
            .query(Operation::ClaimUsers, |_| {
                let mut pipeline = pipe();
                let claim = pipeline.cmd("EVAL").arg(CLAIM).arg(3);
                claim.arg(keys::node(node)).arg(keys::node_users(node)).arg(keys::left_users(node));
                claim.arg(limit);
                pipeline
            })
            .await?;
        let parse = |users: Vec<String>| -> Vec<UserId> {
            users.iter().filter_map(|user| user.parse().ok()).collect()
        };
        let (mut claimed, own) = (parse(earlier), parse(own));
        for batch in own.chunks(BATCH) {
            let routes: Vec<Route> = batch.iter().cloned().map(Route::User).collect();
            let located = self.locate_routes(&routes).await?;
            let of_node = |one: Located| one.members.into_iter().filter(|member| member.node == *node);
            let gone: Vec<Member> = located.into_iter().flat_map(of_node).collect();
            self.withdraw_members(&gone).await?;
        }
        claimed.extend(own);
        Ok(claimed)
    }
}
