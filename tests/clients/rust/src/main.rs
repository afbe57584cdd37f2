//! reqwest: asks for each URL and prints what came.

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), reqwest::Error> {
    let client = reqwest::Client::new();
    for url in std::env::args().skip(1) {
        let answer = client.get(url).send().await?.error_for_status()?;
        let status = answer.headers().get("cache-status").and_then(|value| value.to_str().ok());
        println!("Cache-Status: {}", status.unwrap_or("none"));
        println!("{}", answer.text().await?);
    }
    Ok(())
}
