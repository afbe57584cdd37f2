<?php
// PHP's streams: asks for each URL and prints what came, head and body.
foreach (array_slice($argv, 1) as $url) {
    $body = file_get_contents($url);
    if ($body === false) {
        exit(1);
    }
    echo implode("\n", $http_response_header), "\n", $body, "\n";
}
