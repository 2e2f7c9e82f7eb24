//! A RabbitMQ that is slow to answer is not taken for one that has nothing.

use fanfare::broker::DeadLetterError;
use lapin::BasicProperties;
use lapin::options::BasicPublishOptions;

use super::bench::{Rabbit, eventually, within};

/// Asked how long it is, a quorum queue that does not answer within a quarter of a second is called empty.
const STUTTER: &str = "
    Q = binary_to_atom(<<\"VHOST_fanfare.dead\">>, utf8),
    true = is_pid(whereis(Q)),
    spawn(fun() -> [begin
        erlang:suspend_process(whereis(Q)), timer:sleep(300),
        erlang:resume_process(whereis(Q)), timer:sleep(1)
    end || _ <- lists:seq(1, 40)] end), ok.";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn letters_of_a_queue_that_answers_late_are_listed_whole_or_not_at_all() {
    const LETTERS: usize = 2_000;
    let rabbit = Rabbit::new().await;
    let one = rabbit.join("n1").await;
    for number in 0..LETTERS {
        let (options, properties) = (BasicPublishOptions::default(), BasicProperties::default());
        let body = format!("letter {number:010000}");
        let sent = rabbit.channel.basic_publish(
            "".into(),
            "fanfare.dead".into(),
            options,
            body.as_bytes(),
            properties,
        );
        within("a confirm", sent.await.expect("sent")).await.expect("confirmed");
    }
    rabbit.ctl(&["eval", &STUTTER.replace("VHOST", rabbit.vhost())]).await;
    let whole = async || match one.graveyard.list(None, 2 * LETTERS).await {
        Ok(found) => {
            assert_eq!(found.letters.len(), LETTERS);
            true
        }
        Err(error) => {
            assert_eq!(error, DeadLetterError::Unavailable);
            false
        }
    };
    whole().await;
    eventually("the queue answers in time", whole).await;
    drop(one);
    rabbit.end().await;
}
