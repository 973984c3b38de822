# elvish completion for logd
use str
set edit:completion:arg-completer[logd] = {|@words|
    e:logd __complete (all $words[1..]) | each {|line|
        var name = [(str:split "\t" $line)][0]
        if (str:has-suffix $name /) {
            edit:complex-candidate $name &code-suffix=''
        } else {
            edit:complex-candidate $name &code-suffix=' '
        }
    }
}
