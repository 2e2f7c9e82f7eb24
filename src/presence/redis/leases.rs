//! Leases of nodes in Redis.
//!
//! Owns the scripts. Each touches keys of one node only, hence of one slot of Redis Cluster; the
//! index of nodes is another key and is written beside them, so it is a hint: the lease itself tells.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use deadpool_redis::redis::{Pipeline, pipe};

use super::keys;
use super::time::millis;
use super::{LONG, RedisPresence};
use crate::domain::NodeId;
use crate::metrics::presence::Operation;
use crate::presence::{Lease, NodeLease, PresenceError};

/// Takes or refreshes a lease. Answers state, the holder's boot, what remains in ms, and `TIME`.
///
/// `ARGV`: boot, lease as JSON, TTL in ms, "1" for the first call of a boot, expiry of the users in ms.
/// A new life of a node begins with no users: those of its last life that never said goodbye are set
/// apart, where a survivor finds them, instead of being kept alive by leases that are not theirs.
const TAKE: &str = "
local now = redis.call('TIME')
local held = redis.call('GET', KEYS[1])
if held then
  local read, lease = pcall(cjson.decode, held)
  if read and type(lease) == 'table' and lease.boot ~= ARGV[1] then
    return {'held', tostring(lease.boot), redis.call('PTTL', KEYS[1]), now[1], now[2]}
  end
end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
if not held and ARGV[4] == '1' and redis.call('EXISTS', KEYS[2]) == 1 then
  if redis.call('EXISTS', KEYS[3]) == 1 then
    redis.call('SUNIONSTORE', KEYS[3], KEYS[3], KEYS[2])
    redis.call('DEL', KEYS[2])
  else
    redis.call('RENAME', KEYS[2], KEYS[3])
  end
  redis.call('PEXPIRE', KEYS[3], ARGV[5])
end
redis.call('PEXPIRE', KEYS[2], ARGV[5])
return {held and 'kept' or 'absent', '', 0, now[1], now[2]}
";

/// Deletes a lease if it is of this boot (`ARGV[1]`); answers whether it did.
const RELEASE: &str = "
local held = redis.call('GET', KEYS[1])
if not held then return 0 end
local read, lease = pcall(cjson.decode, held)
if read and type(lease) == 'table' and lease.boot == ARGV[1] then
  return redis.call('DEL', KEYS[1])
end
return 0
";

/// State, boot, remaining ms, `TIME` in two parts.
type Taken = (String, String, i64, i64, i64);

impl RedisPresence {
    pub(super) async fn take_lease(
        &self,
        lease: &NodeLease,
        ttl: Duration,
        first: bool,
    ) -> Result<Lease, PresenceError> {
        let json = serde_json::to_string(lease).expect("a lease is strings, a number and a bool");
        let ttl_ms = millis(ttl).max(1);
        let mut asked = Instant::now();
        // A call whose answer is lost may have written the lease anew after a loss; the next
        // call then finds it there. So doubt stands until an answer has arrived.
        let doubted = self.lease_in_doubt.swap(true, Ordering::Relaxed);
        let (answer,): (Taken,) = self
            .query(Operation::Lease, |now_ms| {
                asked = Instant::now();
                let mut pipeline = take(lease, &json, ttl_ms, first);
                index(&mut pipeline, &lease.node, now_ms, ttl_ms);
                pipeline
            })
            .await?;
        self.lease_in_doubt.store(false, Ordering::Relaxed);
        let (state, boot, remaining_ms, seconds, micros) = answer;
        self.pool.time().observe(asked, (seconds, micros));
        if state == "held" {
            let remaining = Duration::from_millis(u64::try_from(remaining_ms).unwrap_or(0));
            return Ok(Lease::Held { boot, remaining });
        }
        Ok(if first || (state == "kept" && !doubted) { Lease::Kept } else { Lease::Renewed })
    }

    pub(super) async fn release_lease(&self, node: &NodeId, boot: &str) -> Result<(), PresenceError> {
        let (released,): (bool,) = self
            .query(Operation::Release, |_| {
                let mut pipeline = pipe();
                let script = pipeline.cmd("EVAL").arg(RELEASE).arg(1);
                script.arg(keys::node(node)).arg(boot);
                pipeline
            })
            .await?;
        if !released {
            return Ok(());
        }
        // A successor that took the lease just now is missing in the index until its next refresh.
        self.query(Operation::Release, |_| {
            let mut pipeline = pipe();
            pipeline.zrem(keys::NODES, node.as_str()).ignore();
            pipeline
        })
        .await
    }

    pub(super) async fn live_nodes(&self) -> Result<Vec<NodeLease>, PresenceError> {
        let leases = self.known_leases(Operation::Nodes).await?.into_iter().filter_map(|(_, json)| json);
        let mut leases: Vec<NodeLease> = leases.filter_map(|json| serde_json::from_str(&json).ok()).collect();
        leases.sort_by(|one, other| one.node.cmp(&other.node));
        Ok(leases)
    }

    /// Every node in the index, with its lease if that lives.
    pub(super) async fn known_leases(
        &self,
        operation: Operation,
    ) -> Result<Vec<(NodeId, Option<String>)>, PresenceError> {
        let (ids,): (Vec<String>,) = self
            .query(operation, |_| {
                let mut pipeline = pipe();
                pipeline.zrange(keys::NODES, 0, -1);
                pipeline
            })
            .await?;
        let ids: Vec<NodeId> = ids.iter().filter_map(|id| id.parse().ok()).collect();
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let leases: Vec<Option<String>> = self
            .query(operation, |_| {
                let mut pipeline = pipe();
                for id in &ids {
                    pipeline.get(keys::node(id));
                }
                pipeline
            })
            .await?;
        Ok(ids.into_iter().zip(leases).collect())
    }
}

/// Writes the node into the index, and forgets there who has been dead for long. Also when the lease
/// is held by another boot: then that node is alive.
fn index(pipeline: &mut Pipeline, node: &NodeId, now_ms: i64, ttl_ms: i64) {
    let deadline = now_ms.saturating_add(ttl_ms);
    pipeline.zadd(keys::NODES, node.as_str(), deadline).ignore();
    let long_dead = now_ms - millis(LONG);
    pipeline.zrembyscore(keys::NODES, "-inf", long_dead).ignore();
    pipeline.pexpire(keys::NODES, millis(LONG)).ignore();
}

fn take(lease: &NodeLease, json: &str, ttl_ms: i64, first: bool) -> Pipeline {
    let mut pipeline = pipe();
    pipeline
        .cmd("EVAL")
        .arg(TAKE)
        .arg(3)
        .arg(keys::node(&lease.node))
        .arg(keys::node_users(&lease.node))
        .arg(keys::left_users(&lease.node))
        .arg(&lease.boot)
        .arg(json)
        .arg(ttl_ms)
        .arg(i32::from(first))
        .arg(millis(LONG));
    pipeline
}
