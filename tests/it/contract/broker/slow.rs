//! A RabbitMQ that is slow to answer is not taken for one that has nothing.

use fanfare::broker::DeadLetterError;

use super::bench::{Rabbit, eventually};

/// Asked how long it is, a quorum queue that does not answer within a quarter of a second is called empty.
const STUTTER: &str = "
    Q = binary_to_atom(<<\"VHOST_fanfare.dead\">>, utf8),
    true = is_pid(whereis(Q)),
    spawn(fun() -> [begin
        erlang:suspend_process(whereis(Q)), timer:sleep(300),
        erlang:resume_process(whereis(Q)), timer:sleep(1)
    end || _ <- lists:seq(1, 40)] end), ok.";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn letters_of_a_queue_that_answers_late_are_listed_whole_or_not_at_all_and_each_is_found() {
    const LETTERS: usize = 2_000;
    let rabbit = Rabbit::new().await;
    let one = rabbit.join("n1").await;
    rabbit.bury((0..LETTERS).map(|number| format!("letter {number:010000}"))).await;
    let letters = one.graveyard.list(None, 2 * LETTERS).await.expect("the queue answers").letters;
    let stutter = STUTTER.replace("VHOST", rabbit.vhost());
    rabbit.ctl(&["eval", &stutter]).await;
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
    assert_eq!(one.metrics.dead_letters_kept.get(), LETTERS as i64);
    eventually("the queue answers in time", whole).await;

    rabbit.ctl(&["eval", &stutter]).await;
    let letter = &letters[LETTERS * 3 / 4];
    eventually("a letter of it is there", async || match one.graveyard.find(&letter.id).await {
        Ok((found, _)) => {
            assert_eq!(found.id, letter.id);
            true
        }
        Err(error) => {
            assert_eq!(error, DeadLetterError::Unavailable);
            false
        }
    })
    .await;
    drop(one);
    rabbit.end().await;
}
