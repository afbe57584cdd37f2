<?php
// Runs before each script: streams (fopen, file_get_contents) go through larder.
//
// Owns: the default stream context. Never touches: contexts that a script creates, and curl, which reads
// the environment.

(static function () {
    $proxy = get_cfg_var('larder.proxy');
    if (is_string($proxy) && $proxy !== '') {
        // Without the full URI the proxy does not see the host of an http:// URL.
        $http = ['proxy' => $proxy, 'request_fulluri' => true];
        $authorization = get_cfg_var('larder.authorization');
        if (is_string($authorization) && $authorization !== '') {
            // PHP sends this field to the proxy alone.
            $http['header'] = 'Proxy-Authorization: ' . $authorization;
        }
        stream_context_set_default(['http' => $http]);
    }
})();

// The auto_prepend_file of the original configuration still runs.
if ($larder_next = (static function () {
    $files = array_map('trim', explode(',', (string) php_ini_scanned_files()));
    array_unshift($files, (string) php_ini_loaded_file());
    $next = null;
    foreach ($files as $file) {
        if ($file === '' || dirname($file) === __DIR__ || !is_readable($file)) {
            continue;
        }
        if (preg_match('/^\s*auto_prepend_file\s*=/mi', (string) file_get_contents($file)) === 1) {
            $next = parse_ini_file($file)['auto_prepend_file'] ?? $next;
        }
    }
    // `none` is PHP's value for no file.
    return in_array($next, [null, '', 'none'], true) ? null : $next;
})()) {
    require $larder_next;
}
unset($larder_next);
