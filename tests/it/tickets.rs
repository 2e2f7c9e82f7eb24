//! Tickets over the cluster: whichever nodes are shown one, and whenever, it opens one connection.

use futures_util::future::join_all;
use serde_json::Value;

use crate::support::backends::http_client;
use crate::support::client::{Frame, TestClient};
use crate::support::cluster::TestCluster;

/// How often it is tried: each time both nodes are asked at the same moment.
const ROUNDS: usize = 20;

async fn ticket(cluster: &TestCluster) -> String {
    let url = format!("{}/v1/tickets", cluster.nodes[0].http_url());
    let request = http_client().post(url).bearer_auth(cluster.credentials.user_token("alice"));
    let answer: Value = request.send().await.expect("an answer").json().await.expect("JSON");
    answer["ticket"].as_str().unwrap_or_else(|| panic!("a ticket; got {answer}")).to_owned()
}

#[tokio::test]
async fn a_ticket_that_two_nodes_are_shown_at_once_opens_one_connection() {
    let cluster = TestCluster::start().await;
    for round in 0..ROUNDS {
        let ticket = ticket(&cluster).await;
        // Twice each: neither a node of its own nor two of them take it twice.
        let urls: Vec<String> =
            (0..4).map(|at| format!("{}?ticket={ticket}", cluster.nodes[at % 2].ws_url())).collect();
        let show = async |url: &String| {
            let mut client = TestClient::dial_with(url, &[]).await.expect("the upgrade");
            let first = client.frame().await;
            (client, first)
        };
        let shown = join_all(urls.iter().map(show)).await;
        let welcomed = shown.iter().filter(|(_, first)| matches!(first, Frame::Welcome(_))).count();
        let refused =
            shown.iter().filter(|(_, first)| matches!(first, Frame::Bye { code: 4501, .. })).count();
        assert_eq!((welcomed, refused), (1, 3), "round {round}");
    }
}
