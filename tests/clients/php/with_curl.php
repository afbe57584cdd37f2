<?php
// PHP's curl: asks for each URL and prints what came, head and body.
foreach (array_slice($argv, 1) as $url) {
    $handle = curl_init($url);
    curl_setopt_array($handle, [
        CURLOPT_RETURNTRANSFER => true,
        CURLOPT_HEADER => true,
        CURLOPT_SUPPRESS_CONNECT_HEADERS => true,
        CURLOPT_FAILONERROR => true,
    ]);
    $answer = curl_exec($handle);
    if ($answer === false) {
        fwrite(STDERR, curl_error($handle) . "\n");
        exit(1);
    }
    echo $answer, "\n";
}
