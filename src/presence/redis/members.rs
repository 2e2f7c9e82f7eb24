//! Connections and topic readers in Redis.
//!
//! Owns the pipelines. Every write is whole (ZADD and the expiry of its key), so that whatever was
//! forgotten is there again after it. Only announces prune, and only what has long been dead.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use deadpool_redis::redis::{Pipeline, pipe};

use super::time::millis;
use super::{BATCH, LONG, MARGIN, RedisPresence, keys};
use crate::domain::{NodeId, TopicName, UserId};
use crate::metrics::presence::Operation;
use crate::presence::{Located, Member, PresenceError, Route};

/// The members of one user within one call, with their places in it.
type OfUser<'a> = (&'a UserId, Vec<(usize, &'a Member)>);

impl RedisPresence {
    pub(super) async fn announce_members(
        &self,
        members: &[Member],
        ttl: Duration,
    ) -> Result<Vec<Vec<Member>>, PresenceError> {
        let mut answers = vec![Vec::new(); members.len()];
        for batch in batches(members) {
            let live: Vec<Vec<String>> =
                self.query(Operation::Announce, |now_ms| announce(&batch, now_ms, millis(ttl))).await?;
            for ((user, own), texts) in batch.iter().zip(live) {
                let live = read_members(user, &texts);
                for (place, member) in own {
                    let others = live.iter().filter(|other| other != member);
                    answers[*place] = others.cloned().collect();
                }
            }
        }
        Ok(answers)
    }

    pub(super) async fn refresh_members(
        &self,
        members: &[Member],
        topics: &[TopicName],
        node: &NodeId,
        ttl: Duration,
    ) -> Result<(), PresenceError> {
        for batch in batches(members) {
            let () = self
                .query(Operation::Refresh, |now_ms| {
                    let mut pipeline = pipe();
                    write_members(&mut pipeline, &batch, now_ms, millis(ttl));
                    pipeline
                })
                .await?;
        }
        self.write_topics(Operation::Refresh, topics, node, ttl).await?;
        self.metrics.refreshed.inc_by((members.len() + topics.len()) as u64);
        Ok(())
    }

    /// One pipeline a batch: each topic's node and expiry; an announce prunes too.
    pub(super) async fn write_topics(
        &self,
        operation: Operation,
        topics: &[TopicName],
        node: &NodeId,
        ttl: Duration,
    ) -> Result<(), PresenceError> {
        for batch in topics.chunks(BATCH) {
            let () = self
                .query(operation, |now_ms| {
                    let mut pipeline = pipe();
                    for topic in batch {
                        let key = keys::topic(topic);
                        pipeline.zadd(&key, node.as_str(), now_ms + millis(ttl)).ignore();
                        pipeline.pexpire(&key, millis(ttl + MARGIN)).ignore();
                        if operation == Operation::AnnounceTopics {
                            let long_dead = now_ms - millis(MARGIN);
                            pipeline.zrembyscore(&key, "-inf", long_dead).ignore();
                        }
                    }
                    pipeline
                })
                .await?;
        }
        Ok(())
    }

    /// Removes members, then those users of a node of whom it has no member left.
    ///
    /// The two are in different slots, so this is two round trips, not one script. A user who is
    /// announced anew between them is missing in `node-users` until the next refresh, which writes it.
    pub(super) async fn withdraw_members(&self, members: &[Member]) -> Result<(), PresenceError> {
        for batch in batches(members) {
            let left: Vec<Vec<String>> = self.query(Operation::Withdraw, |_| withdraw(&batch)).await?;
            let mut gone: BTreeMap<&NodeId, Vec<&str>> = BTreeMap::new();
            for ((user, own), texts) in batch.iter().zip(left) {
                let left = read_members(user, &texts);
                for (_, member) in own {
                    if !left.iter().any(|other| other.node == member.node) {
                        gone.entry(&member.node).or_default().push(user.as_str());
                    }
                }
            }
            if gone.is_empty() {
                continue;
            }
            let () = self
                .query(Operation::Withdraw, |_| {
                    let mut pipeline = pipe();
                    for (node, users) in &gone {
                        pipeline.srem(keys::node_users(node), users).ignore();
                    }
                    pipeline
                })
                .await?;
        }
        Ok(())
    }

    pub(super) async fn locate_routes(&self, routes: &[Route]) -> Result<Vec<Located>, PresenceError> {
        let mut located = Vec::with_capacity(routes.len());
        for batch in routes.chunks(BATCH) {
            let answers: Vec<Vec<String>> = self
                .query(Operation::Locate, |now_ms| {
                    let mut pipeline = pipe();
                    for route in batch {
                        let key = match route {
                            Route::User(user) => keys::user(user),
                            Route::Topic(topic) => keys::topic(topic),
                        };
                        live(&mut pipeline, &key, now_ms);
                    }
                    pipeline
                })
                .await?;
            for (route, texts) in batch.iter().zip(answers) {
                located.push(match route {
                    Route::User(user) => Located::of_members(read_members(user, &texts)),
                    Route::Topic(_) => {
                        Located::of_nodes(texts.iter().filter_map(|id| id.parse().ok()).collect())
                    }
                });
            }
        }
        Ok(located)
    }
}

/// Groups by user, then cuts into batches of at most [`BATCH`] members (or one user), so that all
/// members of a user are written before their answer is read.
fn batches(members: &[Member]) -> Vec<Vec<OfUser<'_>>> {
    let mut index: HashMap<&UserId, usize> = HashMap::with_capacity(members.len());
    let mut users: Vec<OfUser<'_>> = Vec::with_capacity(members.len());
    for (place, member) in members.iter().enumerate() {
        let user = *index.entry(&member.user).or_insert_with(|| {
            users.push((&member.user, Vec::with_capacity(1)));
            users.len() - 1
        });
        users[user].1.push((place, member));
    }
    let mut batches = Vec::new();
    let (mut batch, mut size) = (Vec::new(), 0);
    for user in users {
        if size > 0 && size + user.1.len() > BATCH {
            batches.push(std::mem::take(&mut batch));
            size = 0;
        }
        size += user.1.len();
        batch.push(user);
    }
    if size > 0 {
        batches.push(batch);
    }
    batches
}

/// The full write of members: scores, expiry of their keys, and the users of their nodes.
fn write_members(pipeline: &mut Pipeline, batch: &[OfUser<'_>], now_ms: i64, ttl_ms: i64) {
    let mut users: BTreeMap<&NodeId, Vec<&str>> = BTreeMap::new();
    let deadline = now_ms.saturating_add(ttl_ms);
    for (user, own) in batch {
        let key = keys::user(user);
        let add = pipeline.cmd("ZADD").arg(&key);
        for (_, member) in own {
            add.arg(deadline).arg(keys::member(member));
            users.entry(&member.node).or_default().push(user.as_str());
        }
        add.ignore();
        let expiry = ttl_ms.saturating_add(millis(MARGIN));
        pipeline.pexpire(&key, expiry).ignore();
    }
    for (node, users) in users {
        let key = keys::node_users(node);
        pipeline.sadd(&key, users).ignore();
        pipeline.pexpire(&key, millis(LONG)).ignore();
    }
}

fn announce(batch: &[OfUser<'_>], now_ms: i64, ttl_ms: i64) -> Pipeline {
    let mut pipeline = pipe();
    write_members(&mut pipeline, batch, now_ms, ttl_ms);
    for (user, _) in batch {
        let key = keys::user(user);
        pipeline.zrembyscore(&key, "-inf", now_ms - millis(MARGIN)).ignore();
        live(&mut pipeline, &key, now_ms);
    }
    pipeline
}

fn withdraw(batch: &[OfUser<'_>]) -> Pipeline {
    let mut pipeline = pipe();
    for (user, own) in batch {
        let key = keys::user(user);
        let members: Vec<String> = own.iter().map(|(_, own)| keys::member(own)).collect();
        pipeline.zrem(&key, members).ignore();
        pipeline.zrange(&key, 0, -1);
    }
    pipeline
}

/// Asks who is alive: a deadline of just now has passed.
fn live(pipeline: &mut Pipeline, key: &str, now_ms: i64) {
    pipeline.zrangebyscore(key, format!("({now_ms}"), "+inf");
}

fn read_members(user: &UserId, texts: &[String]) -> Vec<Member> {
    let members = texts.iter().filter_map(|text| keys::parse_member(user, text));
    let mut members: Vec<Member> = members.collect();
    members.sort_by(Member::in_order);
    members
}
