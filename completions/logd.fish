# fish completion for logd
function __logd_complete
    set -l words (commandline -opc)
    logd __complete $words[2..-1] (commandline -ct) 2>/dev/null
end
complete -c logd -a '(__logd_complete)'
