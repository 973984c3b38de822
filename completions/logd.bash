# bash completion for logd
_logd() {
    local line
    COMPREPLY=()
    while IFS= read -r line; do
        line=${line%%$'\t'*}
        [[ $line == */ ]] && compopt -o nospace
        # After --option= bash replaces only what follows the sign.
        [[ ${COMP_WORDS[COMP_CWORD]} != --*=* ]] || line=${line#*=}
        COMPREPLY+=("$(printf '%q' "$line")")
    done < <(logd __complete "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null)
}
complete -o nosort -o bashdefault -o default -F _logd logd
