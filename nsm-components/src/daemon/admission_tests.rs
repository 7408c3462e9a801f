//! Who is next, and who is refused. Time is paused.

use tokio::task::{JoinHandle, yield_now};

use super::*;

const LONG: Duration = Duration::from_secs(15);

fn admission(limit: usize) -> Arc<Admission> {
    Admission::new(limit, CancellationToken::new())
}

async fn enter(admission: &Arc<Admission>, caller: &str) -> Place {
    admission.enter(caller, 0, Instant::now() + LONG).await.unwrap()
}

/// One that waits; it tells who it was when its turn comes, and ends at once.
fn wait(
    admission: &Arc<Admission>,
    caller: &'static str,
    told: &Arc<Mutex<Vec<&'static str>>>,
) -> JoinHandle<Result<(), Refusal>> {
    let (admission, told) = (admission.clone(), told.clone());
    tokio::spawn(async move {
        let place = admission.enter(caller, 0, Instant::now() + LONG).await?;
        told.lock().push(caller);
        drop(place);
        Ok(())
    })
}

async fn settle() {
    for _ in 0..100 {
        yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn who_asks_for_much_waits_behind_its_own_and_not_the_others_behind_it() {
    let (admission, told) = (admission(1), Arc::default());
    let place = enter(&admission, "first").await;
    for _ in 0..4 {
        wait(&admission, "greedy", &told);
    }
    settle().await;
    wait(&admission, "modest", &told);
    wait(&admission, "other", &told);
    settle().await;
    assert_eq!(admission.load(), Load { running: 1, waiting: 6, callers: 4, refused: 0 });
    drop(place);
    settle().await;
    assert_eq!(*told.lock(), ["greedy", "modest", "other", "greedy", "greedy", "greedy"]);
    assert_eq!(admission.load(), Load::default());
}

#[tokio::test(start_paused = true)]
async fn one_caller_cannot_hold_all_places_however_long_it_holds_them() {
    let admission = admission(8);
    let held = [enter(&admission, "greedy").await, enter(&admission, "greedy").await];
    let mut third = Box::pin(enter(&admission, "greedy"));
    assert!(futures::poll!(&mut third).is_pending());
    let _other = enter(&admission, "other").await;
    assert!(futures::poll!(&mut third).is_pending());
    drop(held);
    third.await;
}

#[tokio::test(start_paused = true)]
async fn who_finds_its_part_of_the_queue_full_or_all_of_it_is_refused_at_once_by_the_limits_name() {
    let (admission, told) = (admission(1), Arc::default());
    let _place = enter(&admission, "first").await;
    for caller in ["a", "b", "c", "d"] {
        (0..4).for_each(|_| drop(wait(&admission, caller, &told)));
    }
    settle().await;
    let own = admission.enter("e", 0, Instant::now() + LONG).await.unwrap_err();
    assert_eq!(own, Refusal::Full { running: 1, waiting: 16, limit: 1 });
    assert!(own.to_string().contains("NSM_MAX_REQUESTS_IN_FLIGHT=1"), "{own}");
    let admission = self::admission(1);
    let _place = enter(&admission, "first").await;
    (0..4).for_each(|_| drop(wait(&admission, "a", &told)));
    settle().await;
    let own = admission.enter("a", 0, Instant::now() + LONG).await.unwrap_err();
    assert_eq!(own, Refusal::Share { caller: "a".into(), waiting: 4, limit: 1 });
    assert_eq!(admission.load().refused, 1);
}

#[tokio::test(start_paused = true)]
async fn who_has_no_time_left_is_not_started_and_leaves_nothing() {
    let admission = admission(1);
    let late = admission.enter("a", 0, Instant::now()).await.unwrap_err();
    assert_eq!(late, Refusal::Late { limit: 1 });
    let place = enter(&admission, "first").await;
    let before = Instant::now();
    let late = admission.enter("a", 0, before + Duration::from_secs(2)).await.unwrap_err();
    assert_eq!((late, before.elapsed()), (Refusal::Late { limit: 1 }, Duration::from_secs(2)));
    drop(place);
    assert_eq!(admission.load(), Load { refused: 2, ..Load::default() });
    assert!(admission.state.lock().levels[0].callers.is_empty());
    assert!(admission.state.lock().levels[0].turns.is_empty());
}

#[tokio::test(start_paused = true)]
async fn who_goes_away_while_it_waits_or_at_its_turn_leaves_nothing() {
    let admission = admission(1);
    let place = enter(&admission, "first").await;
    let mut gone = Box::pin(enter(&admission, "a"));
    let mut at_its_turn = Box::pin(enter(&admission, "b"));
    assert!(futures::poll!(&mut gone).is_pending());
    assert!(futures::poll!(&mut at_its_turn).is_pending());
    drop(gone);
    drop(place);
    assert_eq!(admission.load(), Load { running: 1, callers: 1, ..Load::default() });
    drop(at_its_turn);
    assert_eq!(admission.load(), Load::default());
    assert!(admission.state.lock().levels[0].callers.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_request_whose_way_leads_through_here_again_is_not_held_up_by_those_before_it() {
    let admission = admission(1);
    let _outer = enter(&admission, "a").await;
    let inner = admission.enter("a", 2, Instant::now() + LONG).await;
    assert!(inner.is_ok());
}

#[tokio::test(start_paused = true)]
async fn with_the_stop_those_that_wait_are_refused_and_those_at_work_go_on() {
    let stop = CancellationToken::new();
    let admission = Admission::new(1, stop.clone());
    let _place = enter(&admission, "first").await;
    let waiting = wait(&admission, "a", &Arc::default());
    settle().await;
    stop.cancel();
    assert_eq!(waiting.await.unwrap(), Err(Refusal::Stopping));
    assert_eq!(admission.load().running, 1);
}
