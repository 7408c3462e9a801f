//! A machine that sleeps when it is told to; its time awake is paused.

use std::sync::atomic::{AtomicU64, Ordering};

use super::*;

const HOUR: Duration = Duration::from_hours(1);

/// A clock whose machine has slept for as long as the number says.
macro_rules! machine {
    () => {{
        static ASLEEP: AtomicU64 = AtomicU64::new(7);
        (BootClock::of(|| Duration::from_secs(ASLEEP.load(Ordering::Relaxed))), &ASLEEP)
    }};
}

#[tokio::test(start_paused = true)]
async fn what_waits_is_on_when_the_machine_wakes_and_not_before_its_time() {
    let (clock, asleep) = machine!();
    let clock: Clock = clock;
    let (end, far) = (clock.after(HOUR), clock.after(HOUR * 3));
    let begin = Instant::now();
    let (near, later) = (clock.clone(), clock.clone());
    let near = tokio::spawn(async move { near.wait_until(end).await });
    let later = tokio::spawn(async move { later.wait_until(far).await });
    tokio::time::sleep(Duration::from_mins(1)).await;
    asleep.fetch_add(HOUR.as_secs(), Ordering::Relaxed);
    near.await.unwrap();
    assert!(begin.elapsed() <= Duration::from_mins(1) + LOOK, "{:?}", begin.elapsed());
    later.await.unwrap();
    assert_eq!(begin.elapsed(), HOUR * 2);
}

#[tokio::test(start_paused = true)]
async fn after_a_sleep_nothing_ends_before_those_who_refresh_had_their_time() {
    let (clock, asleep) = machine!();
    let clock: Clock = clock;
    let end = clock.after(Duration::from_secs(10));
    tokio::time::sleep(Duration::from_secs(9)).await;
    asleep.fetch_add(HOUR.as_secs(), Ordering::Relaxed);
    let woke = Instant::now();
    clock.wait_for_end(end).await;
    assert_eq!(woke.elapsed(), GRACE);
    // Without a sleep it ends when it ends.
    let begin = Instant::now();
    clock.wait_for_end(clock.after(HOUR)).await;
    assert_eq!(begin.elapsed(), HOUR);
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_nobody_holds_does_not_look_any_more() {
    let (clock, _) = machine!();
    let looks = Arc::downgrade(&clock);
    drop(clock);
    tokio::time::sleep(LOOK * 2).await;
    assert_eq!(looks.strong_count(), 0);
}

#[test]
fn the_systems_clocks_do_not_drift_apart_while_it_is_awake() {
    let before = asleep();
    assert!(asleep().abs_diff(before) < SHORTEST);
}
