//! The web side as programs and browsers meet it: over HTTP, on a real port, with a real database. Each flow runs on SQLite, and
//! all of them on Postgres.

#![expect(
    clippy::unwrap_used,
    reason = "a helper of a test that cannot go on fails the test"
)]

mod configuration;
mod console;
mod flows;
mod home;
mod postgres;
mod roles;
mod streams;

use home::Home;

#[tokio::test]
async fn the_first_start_makes_an_administrator_once_and_the_second_none() {
    flows::the_first_start_makes_an_administrator_once_and_the_second_none(&Home::folder()).await;
}

#[tokio::test]
async fn every_route_is_as_it_is_described() {
    flows::every_route_is_as_it_is_described(&Home::folder()).await;
}

#[tokio::test]
async fn tokens_do_no_more_than_they_may_and_end() {
    flows::tokens_do_no_more_than_they_may_and_end(&Home::folder()).await;
}

#[tokio::test]
async fn tokens_end() {
    flows::tokens_end(&Home::folder()).await;
}

#[tokio::test]
async fn a_thousand_guesses_are_ten_and_are_written_down() {
    flows::a_thousand_guesses_are_ten_and_are_written_down(&Home::folder()).await;
}

#[tokio::test]
async fn pages_of_others_cannot_use_a_session() {
    flows::pages_of_others_cannot_use_a_session(&Home::folder()).await;
}

#[tokio::test]
async fn somebody_can_always_administer() {
    flows::somebody_can_always_administer(&Home::folder()).await;
}

#[tokio::test]
async fn every_node_has_a_cluster() {
    flows::every_node_has_a_cluster(&Home::folder()).await;
}

#[tokio::test]
async fn what_cannot_be_taken_is_said_at_once_and_kept_nowhere() {
    flows::what_cannot_be_taken_is_said_at_once_and_kept_nowhere(&Home::folder()).await;
}

#[tokio::test]
async fn a_new_password_ends_the_sessions() {
    flows::a_new_password_ends_the_sessions(&Home::folder()).await;
}

#[tokio::test]
async fn what_a_user_may_have_is_bounded() {
    flows::what_a_user_may_have_is_bounded(&Home::folder()).await;
}

#[tokio::test]
async fn only_names_of_users_are_written_down() {
    flows::only_names_of_users_are_written_down(&Home::folder()).await;
}

#[tokio::test]
async fn the_console_is_served_with_a_strict_policy() {
    flows::the_console_is_served_with_a_strict_policy(&Home::folder()).await;
}

#[tokio::test]
async fn the_audit_is_filtered() {
    flows::the_audit_is_filtered(&Home::folder()).await;
}

#[tokio::test]
async fn what_is_wrong_is_said_of_its_field() {
    flows::what_is_wrong_is_said_of_its_field(&Home::folder()).await;
}

/// A start that fails makes nobody whose password is never told.
#[tokio::test]
async fn an_administrator_is_made_by_a_start_that_succeeds() {
    let home = Home::folder();
    let taken = home::Manager::start(&Home::folder()).await;
    let fails = |config: &mut darter_manager::config::Config| config.web.listen = taken.address();
    let failed = home::Manager::bind(&home, fails, &Default::default(), Default::default()).await;
    assert!(failed.unwrap_err().to_string().contains("another process"));
    let manager = home::Manager::start(&home).await;
    assert!(manager.password.is_some());
    manager.stop().await;
    taken.stop().await;
}

#[tokio::test]
async fn every_version_is_kept_and_nobody_overwrites_another() {
    configuration::every_version_is_kept_and_nobody_overwrites_another(&Home::folder()).await;
}

#[tokio::test]
async fn join_tokens_are_shown_once_and_go_with_their_cluster() {
    configuration::join_tokens_are_shown_once_and_go_with_their_cluster(&Home::folder()).await;
}

#[tokio::test]
async fn a_node_finds_its_scheduler_and_outlives_the_manager() {
    roles::a_node_finds_its_scheduler_and_outlives_the_manager(&Home::folder()).await;
}

#[tokio::test]
async fn a_token_opens_its_own_cluster_for_as_long_as_it_is_there() {
    roles::a_token_opens_its_own_cluster_for_as_long_as_it_is_there(&Home::folder()).await;
}

#[tokio::test]
async fn a_silent_scheduler_is_not_handed_out_and_comes_back() {
    roles::a_silent_scheduler_is_not_handed_out_and_comes_back(&Home::folder()).await;
}

#[tokio::test]
async fn who_is_silent_is_ended_whatever_else_changes() {
    streams::who_is_silent_is_ended_whatever_else_changes(&Home::folder()).await;
}

#[tokio::test]
async fn a_stream_ends_with_the_time_of_its_token() {
    streams::a_stream_ends_with_the_time_of_its_token(&Home::folder()).await;
}

#[tokio::test]
async fn a_token_of_one_cluster_takes_nobody_from_another() {
    streams::a_token_of_one_cluster_takes_nobody_from_another(&Home::folder()).await;
}

#[tokio::test]
async fn an_older_stream_takes_the_place_of_a_newer_one_that_ends() {
    streams::an_older_stream_takes_the_place_of_a_newer_one_that_ends(&Home::folder()).await;
}

#[tokio::test]
async fn a_clock_that_is_set_back_keeps_nobody_alive() {
    streams::a_clock_that_is_set_back_keeps_nobody_alive(&Home::folder()).await;
}

#[tokio::test]
async fn clusters_are_bounded() {
    flows::clusters_are_bounded(&Home::folder()).await;
}
